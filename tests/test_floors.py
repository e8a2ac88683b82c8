"""What the import contracts of pyproject.toml cannot see: what is loaded when a package is imported."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("package", "absent"),
    [
        ("engine.models", ("ray", "lance", "lancedb", "torch", "diffusers", "transformers")),
        ("engine.evaluation", ("ray", "lance", "lancedb", "diffusers", "transformers", "open_clip")),
        ("engine.store", ("ray", "lance", "lancedb", "torch")),
        ("engine.sources", ("ray", "lance", "lancedb", "torch", "diffusers")),
        ("engine.costs", ("ray", "torch", "matplotlib")),
        ("engine.reports", ("ray", "torch", "matplotlib")),
        ("engine.studies.genbench.tradeoff", ("ray", "lance", "diffusers")),
    ],
)
def test_a_package_loads_without(package: str, absent: tuple[str, ...]):
    code = f"import sys, {package}; print([name for name in {absent!r} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert found == "[]"
