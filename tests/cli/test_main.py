"""The command `imagefoundry`: its table of subcommands, its help, its exit codes, and the scripts of `jobs/` over the same table."""

import ast
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from engine.cli.main import main, run_job
from engine.cli.table import COMMANDS

ROOT = Path(__file__).parents[2]


def test_help_lists_every_command(capsys):
    assert main([]) == main(["--help"]) == 0
    said = capsys.readouterr().out
    assert all(f"  {name} " in said and command.summary in said for name, command in COMMANDS.items())


def test_the_version_is_the_packages(capsys):
    from engine import __version__

    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"imagefoundry {__version__}\n"


def test_an_unknown_command_is_bad_input(capsys):
    assert main(["genbnech"]) == 2
    assert capsys.readouterr().err.startswith("error: unknown command 'genbnech'; did you mean genbench?")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_its_configuration_its_action_and_its_help(name: str, capsys):
    command = COMMANDS[name]
    module = import_module(command.module)
    assert callable(getattr(module, command.action))
    assert command.summary.endswith(".")
    assert "\n" not in command.summary
    with pytest.raises(SystemExit, match="0"):
        main([name, "--help"])
    said = capsys.readouterr().out
    assert said.startswith(f"usage: imagefoundry {name} ")
    assert command.summary in said


def test_every_script_of_jobs_runs_one_row_of_the_table():
    scripts = {command.script: name for name, command in COMMANDS.items() if command.script}
    assert {path.stem for path in (ROOT / "jobs").glob("*.py")} == set(scripts)
    for script, name in scripts.items():
        path = ROOT / "jobs" / f"{script}.py"
        tree = ast.parse(path.read_text())
        assert ast.get_docstring(tree) == COMMANDS[name].summary
        assert f'run_job("{name}")' in path.read_text()
        assert path.stat().st_mode & 0o111, f"{script}.py is not executable, and `ray job submit -- jobs/…` executes it"


def test_a_job_is_known_by_its_own_name_in_its_help():
    done = subprocess.run([sys.executable, "jobs/plan_budget.py", "--help"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stdout.startswith("usage: jobs/plan_budget.py ")


def test_a_command_returns_the_exit_code_of_what_it_says(tmp_path: Path, capsys):
    assert run_job("verify", [str(tmp_path / "none")]) == 2
    assert capsys.readouterr().err.startswith("error: there is no workspace at")


def test_models_lists_every_generator(capsys):
    from engine.models import generator_names

    assert main(["models"]) == 0
    said = capsys.readouterr().out
    assert all(name in said for name in generator_names())


def test_the_world_is_rendered_once(tmp_path: Path, capsys):
    command = ["world", str(tmp_path / "world"), "--datasets", "mini-novel", "--shots", "1", "--test-images", "1"]
    assert main([*command, "--processes", "1"]) == 0
    assert main(command) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"wrote {tmp_path / 'world'}",
        f"already complete: {tmp_path / 'world'}",
    ]
    assert main([*command, "--pool-images", "0"]) == 2


def test_glides_files_must_be_there(tmp_path: Path, capsys):
    paths = [str(tmp_path / name) for name in ("base.pt", "upsample.pt", "folder")]
    assert main(["convert-glide", *paths]) == 2
    assert capsys.readouterr().err.startswith("error: ")
