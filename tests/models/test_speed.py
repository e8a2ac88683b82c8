"""Levers of `--speed`: a speed that compiles says at once where nothing can compile."""

import shutil
from importlib.machinery import ModuleSpec
from typing import Any

import pytest

from engine.models import generator_spec, load_generator, speed


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes a machine with these packages and programs."""

    def make(packages: tuple[str, ...], programs: tuple[str, ...]) -> None:
        monkeypatch.delenv("CC", raising=False)
        monkeypatch.setattr(speed, "find_spec", lambda name: ModuleSpec(name, None) if name in packages else None)
        monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}" if name in programs else None)

    return make


@pytest.mark.parametrize(
    ("packages", "programs", "missing"),
    [
        ((), ("gcc",), "the package triton"),
        (("triton",), ("make",), r"a C compiler \(gcc or clang\)"),
        ((), (), r"the package triton or a C compiler \(gcc or clang\)"),
    ],
)
def test_a_speed_that_compiles_is_refused_before_weights_are_read(
    packages: tuple[str, ...],
    programs: tuple[str, ...],
    missing: str,
    machine: Any,
    monkeypatch: pytest.MonkeyPatch,
):
    machine(packages, programs)
    monkeypatch.setattr("engine.models.load.check_memory", lambda *arguments: pytest.fail("it went on"))
    message = f"sd21 compiles itself at --speed fast, and this machine is without {missing}; install it there, or use"
    with pytest.raises(ValueError, match=message):
        load_generator(generator_spec("sd21", speed="fast"), device="cuda", dtype="float16")


def test_nothing_is_asked_of_a_machine_where_nothing_is_compiled(machine: Any, monkeypatch: pytest.MonkeyPatch):
    machine((), ())
    speed.check_compiler(generator_spec("sd21"), "cuda")
    speed.check_compiler(generator_spec("sd21", speed="fast"), "cpu")
    speed.check_compiler(generator_spec("qwen-image-edit", speed="lossy"), "cuda")  # casts are not compiled
    with pytest.raises(ValueError, match="--speed lossy"):
        speed.check_compiler(generator_spec("flux", speed="lossy"), "cuda")
    machine(("triton",), ("my-cc", "clang"))
    speed.check_compiler(generator_spec("sd21", speed="fast"), "cuda")
    monkeypatch.setenv("CC", "my-cc -m64")
    speed.check_compiler(generator_spec("sd21", speed="fast"), "cuda")
    monkeypatch.setenv("CC", "no-cc")
    with pytest.raises(ValueError, match=r"a C compiler \(no-cc\)"):
        speed.check_compiler(generator_spec("sd21", speed="fast"), "cuda")
