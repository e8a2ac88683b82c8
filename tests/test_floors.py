"""House rules that ruff and import-linter cannot check: modules that an import loads, lengths of files, numbers of parameters."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize(
    ("package", "absent"),
    [
        ("engine", ("ray", "lance", "lancedb", "torch", "numpy", "pyarrow")),
        ("engine.cli.main", ("ray", "lance", "lancedb", "torch", "numpy", "pyarrow", "tyro")),
        ("engine.models", ("ray", "lance", "lancedb", "torch", "diffusers", "transformers")),
        ("engine.evaluation", ("ray", "lance", "lancedb", "diffusers", "transformers", "open_clip")),
        ("engine.store", ("ray", "lance", "lancedb", "torch")),
        ("engine.sources", ("ray", "lance", "lancedb", "torch", "diffusers")),
        ("engine.costs", ("ray", "torch", "matplotlib")),
        ("engine.reports", ("ray", "torch", "matplotlib")),
        (
            "engine.export.export",
            ("ray", "lance", "lancedb", "torch", "c2pa", "cryptography", "datasets", "mlcroissant"),
        ),
        ("engine.serving.pages", ("ray", "lance", "torch", "diffusers", "transformers", "matplotlib")),
        ("engine.serving.access", ("ray", "lance", "lancedb", "torch", "fastapi")),
        ("engine.serving.admission", ("ray", "lance", "lancedb", "torch")),
        ("engine.studies.genbench.tradeoff", ("ray", "lance", "diffusers")),
    ],
)
def test_a_package_loads_without(package: str, absent: tuple[str, ...]):
    code = f"import sys, {package}; print([name for name in {absent!r} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert found == "[]"


ROOT = Path(__file__).parents[1]
SOURCES = sorted(path for folder in ("engine", "jobs", "deploy") for path in (ROOT / folder).rglob("*.py"))
MOST_LINES, MOST_PARAMETERS = 400, 8
NOT_OURS = ("__call__ of EmuVisualGenerationPipeline", "__call__ of GlidePipeline")
"""Functions whose parameters are a library's: every pipeline of diffusers is called with these names."""


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_reads_in_one_sitting(path: Path):
    text = path.read_text()
    assert text.count("\n") <= MOST_LINES, "cut it in two"
    crowded = [name for name, number in parameters(ast.parse(text)).items() if number > MOST_PARAMETERS]
    assert not crowded, f"more than {MOST_PARAMETERS} parameters; group some of them in a dataclass"


def parameters(tree: ast.AST) -> dict[str, int]:
    """Function and line → number of its parameters; `self` and `cls` do not count."""
    classes = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    left_out = [
        one for node in classes for one in node.body if f"{getattr(one, 'name', '')} of {node.name}" in NOT_OURS
    ]
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    functions = [node for node in functions if node not in left_out]
    found = {}
    for node in functions:
        names = [one.arg for one in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
        own = names[1:] if names[:1] in (["self"], ["cls"]) else names
        found[f"{node.name} (line {node.lineno})"] = len(own) + bool(node.args.vararg) + bool(node.args.kwarg)
    return found


def test_parameters_of_every_kind_count():
    (number,) = parameters(ast.parse("def f(self, a, /, b, *c, d=1, **e): ...")).values()
    assert number == 5
    assert list(parameters(ast.parse("async def f(a, b): ...")).values()) == [2]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_ray_is_imported_after_the_run_is_connected(path: Path):
    assert not early_imports(ast.parse(path.read_text())), (
        "Ray reads its token when it is imported; connect the run first"
    )


def early_imports(tree: ast.AST) -> list[str]:
    """Functions that import Ray and connect a run after it."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            parts = list(ast.walk(node))
            imports = [one.lineno for one in parts if isinstance(one, ast.Import) and one.names[0].name == "ray"]
            calls = [one for one in parts if isinstance(one, ast.Call) and isinstance(one.func, ast.Attribute)]
            connects = [one.lineno for one in calls if ast.unparse(one.func).endswith("run.connect")]
            if imports and connects and min(imports) < min(connects):
                found.append(node.name)
    return found


def test_an_early_import_is_found():
    late = "def f(run):\n    run.connect()\n    import ray"
    early = "def f(self):\n    import ray\n    self._run.connect()"
    assert early_imports(ast.parse(late)) == []
    assert early_imports(ast.parse(early)) == ["f"]
