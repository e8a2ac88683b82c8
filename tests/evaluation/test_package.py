"""The package's names, which are imported at their first use."""

import subprocess
import sys

import pytest

from engine import evaluation


@pytest.mark.parametrize("name", evaluation.__all__)
def test_every_name_is_there(name: str) -> None:
    assert getattr(evaluation, name) is not None
    assert name in dir(evaluation)  # and from then on as any other


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match=r"module 'engine.evaluation' has no attribute 'absent'"):
        _ = evaluation.absent


def test_the_package_alone_loads_no_torch() -> None:
    code = "import sys, engine.evaluation as e; e.check_protocol('paper'); print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
