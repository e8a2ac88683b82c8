import os
import signal
from dataclasses import dataclass
from typing import Any

import pytest

from engine.command import run_command
from engine.failures import RunFailed


@dataclass(frozen=True)
class Config:
    """Nothing."""


def outcome(monkeypatch: pytest.MonkeyPatch, action: Any) -> int:
    monkeypatch.setattr("sys.argv", ["job"])
    return run_command(Config, action, "A job.")


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (ValueError("shots 0; give 1"), 2, "error: shots 0; give 1\n"),
        (RunFailed("60 of 60 recipes failed"), 3, "error: 60 of 60 recipes failed\n"),
        (KeyboardInterrupt(), 130, "\nInterrupted. What was committed stays; run the same command again to go on.\n"),
    ],
)
def test_every_end_has_its_exit_code_and_one_sentence(monkeypatch, capsys, error: BaseException, code: int, said: str):
    def fail(config: Config) -> None:
        raise error

    assert outcome(monkeypatch, fail) == code
    assert capsys.readouterr().err == said


def test_sigterm_is_a_clean_stop_and_the_handler_before_comes_back(monkeypatch, capsys):
    before = signal.getsignal(signal.SIGTERM)

    def stopped(config: Config) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError("the signal came before this line")

    assert outcome(monkeypatch, stopped) == 143
    assert capsys.readouterr().err.startswith("\nTerminated. What was committed stays")
    assert signal.getsignal(signal.SIGTERM) is before


def test_output_that_nobody_reads_any_more_ends_without_a_word(monkeypatch, capsys):
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as stdout:
        monkeypatch.setattr("sys.stdout", stdout)
        assert outcome(monkeypatch, lambda config: print("line")) == 141
        assert outcome(monkeypatch, lambda config: print("line")) == 0, "it goes nowhere from now on"
    assert not capsys.readouterr().err


def test_another_broken_pipe_is_an_error(monkeypatch):
    def fail(config: Config) -> None:
        raise BrokenPipeError("the store went away")

    with pytest.raises(BrokenPipeError):
        outcome(monkeypatch, fail)


def test_a_cluster_that_fails_is_one_sentence(monkeypatch, capsys):
    import ray

    def fail(config: Config) -> None:
        raise ray.exceptions.RaySystemError("the head is gone\nand much more")

    assert outcome(monkeypatch, fail) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: the Ray cluster failed (System error: the head is gone)")
    assert said.count("\n") == 1


def test_an_actor_that_died_is_named_with_the_reason(monkeypatch, capsys):
    import ray
    from ray.core.generated.common_pb2 import ActorDiedErrorContext

    context = ActorDiedErrorContext(
        class_name="ProxyActor",
        actor_id=b"0" * 16,
        pid=7,
        error_message="The actor is dead because it was killed by `ray.kill`.",
    )

    def fail(config: Config) -> None:
        raise ray.exceptions.ActorDiedError(context)

    assert outcome(monkeypatch, fail) == 1
    found = capsys.readouterr().err
    assert "class_name: ProxyActor The actor is dead because it was killed by `ray.kill`." in found
    assert "pid" not in found


def test_an_action_may_choose_its_exit_code(monkeypatch):
    assert outcome(monkeypatch, lambda config: 3) == 3
    assert outcome(monkeypatch, lambda config: None) == 0
