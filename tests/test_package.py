"""`import engine`: the public names, their stub, and the price of the import."""

import ast
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import engine

FOLDER = Path(engine.__file__).parent
HEAVY = ("torch", "ray", "lance", "lancedb", "diffusers", "transformers", "open_clip", "numpy", "pyarrow")


def stub() -> tuple[dict[str, str], list[str]]:
    """Name → module that the stub imports it from, and the stub's `__all__`."""
    imports: dict[str, str] = {}
    exported: list[str] = []
    for node in ast.parse((FOLDER / "__init__.pyi").read_text()).body:
        if isinstance(node, ast.ImportFrom):
            assert all(one.name == one.asname for one in node.names), "only `import X as X` re-exports from a stub"
            imports |= {one.name: str(node.module) for one in node.names}
        elif isinstance(node, ast.Assign):
            exported = ast.literal_eval(node.value)
    return imports, exported


def test_the_stub_the_table_and_all_say_the_same():
    imports, exported = stub()
    assert imports == engine._MODULES
    assert sorted(exported) == sorted(engine.__all__)
    assert len(set(engine.__all__)) == len(engine.__all__)
    assert set(engine.__all__) <= set(dir(engine))


@pytest.mark.parametrize("name", engine._MODULES)
def test_a_public_name_is_what_its_module_says(name: str):
    value = getattr(engine, name)
    assert value is getattr(import_module(engine._MODULES[name]), name)
    assert value.__doc__, f"engine.{name} has no docstring"


def test_no_public_name_hides_a_module():
    modules = {path.stem for path in FOLDER.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert not modules & set(engine.__all__)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'engine' has no attribute 'run_genbnech'"):
        _ = engine.run_genbnech
    with pytest.raises(ImportError, match="cannot import name 'run_genbnech'"):
        exec("from engine import run_genbnech")


def processor_seconds(code: str) -> float:
    """Least processor time, in seconds, of a fresh interpreter that runs `code`, of three."""
    measured = f"import time\n{code}\nprint(time.process_time())"
    command = [sys.executable, "-c", measured]
    return min(float(subprocess.run(command, capture_output=True, text=True, check=True).stdout) for _ in range(3))


@pytest.mark.parametrize("code", ["import engine", "from engine.cli.main import main; main(['--help'])"])
def test_import_and_help_cost_little_and_load_nothing_heavy(code: str):
    quiet = f"import contextlib, io\nwith contextlib.redirect_stdout(io.StringIO()):\n    {code}"
    assert processor_seconds(quiet) - processor_seconds("") < 0.3
    loaded = f"{quiet}\nimport sys\nprint([name for name in {HEAVY!r} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True, check=True).stdout
    assert found.strip() == "[]"
