"""A workspace of an older schema is upgraded when it is opened, once, and says so; one of a newer schema is refused."""

import lance
import pytest

from engine.recipe import SCHEMA_VERSION
from engine.store import Workspace, checks, migrations
from engine.store.migrations import MIGRATIONS, Migration

from .helpers import add, image_rows


def add_licence(workspace: Workspace) -> None:
    """The step of a made-up release: every image has a licence."""
    table = workspace.dataset("images")
    if "licence" not in table.schema.names:
        table.add_columns({"licence": "'unknown'"})


@pytest.fixture
def old(workspace: Workspace) -> str:
    """A workspace of today's release."""
    workspace.ensure_encoder("a", 4)
    add(workspace, image_rows(range(3)))
    return workspace.uri


@pytest.fixture
def next_release(old: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A release whose schema is one higher."""
    for module in (checks, migrations):
        monkeypatch.setattr(module, "SCHEMA_VERSION", SCHEMA_VERSION + 1)
    monkeypatch.setitem(MIGRATIONS, SCHEMA_VERSION, Migration("images have a licence", add_licence))


def test_every_older_schema_has_its_step():
    assert set(range(1, SCHEMA_VERSION)) == set(MIGRATIONS)


@pytest.mark.usefixtures("next_release")
def test_an_older_workspace_is_upgraded_once_and_says_so(old: str, capsys: pytest.CaptureFixture[str]):
    upgraded = Workspace.open(old, create=False)
    said = capsys.readouterr().err
    assert f"upgraded from schema {SCHEMA_VERSION} to {SCHEMA_VERSION + 1}: images have a licence" in said
    assert said.count("\n") == 1
    assert migrations.version_of(upgraded) == SCHEMA_VERSION + 1
    assert upgraded.scan(["licence"]).read_all()["licence"].to_pylist() == ["unknown"] * 3
    assert upgraded.embedding_columns() == {"embedding_a": 4}
    version = lance.dataset(f"{old}/images.lance").version
    Workspace.open(old, create=False)
    assert capsys.readouterr().err == ""
    assert lance.dataset(f"{old}/images.lance").version == version


@pytest.mark.usefixtures("next_release")
def test_an_interrupted_upgrade_is_finished_by_the_next(old: str, monkeypatch: pytest.MonkeyPatch):
    def stop(workspace: Workspace) -> None:
        add_licence(workspace)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setitem(MIGRATIONS, SCHEMA_VERSION, Migration("images have a licence", stop))
        with pytest.raises(KeyboardInterrupt):
            Workspace.open(old, create=False)
    assert migrations.version_of(Workspace.open(old, create=False)) == SCHEMA_VERSION + 1


def test_a_workspace_in_use_is_not_upgraded(old: str, request: pytest.FixtureRequest):
    writer = Workspace.open(old, create=False)
    with writer.lock("run"):
        request.getfixturevalue("next_release")
        with pytest.raises(ValueError, match="run"):
            Workspace.open(old, create=False)
        assert migrations.version_of(writer) == SCHEMA_VERSION


def test_a_newer_workspace_is_refused_with_the_way_out(
    old: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
):
    with monkeypatch.context() as patch:
        for module in (checks, migrations):
            patch.setattr(module, "SCHEMA_VERSION", SCHEMA_VERSION + 1)
        patch.setitem(MIGRATIONS, SCHEMA_VERSION, Migration("images have a licence", add_licence))
        Workspace.open(old, create=False)
    with pytest.raises(
        ValueError,
        match=f"schema version {SCHEMA_VERSION + 1}, and this release reads {SCHEMA_VERSION}; install a newer",
    ):
        Workspace.open(old, create=False)


def test_missing_columns_of_an_older_release_are_named(old: str, capsys: pytest.CaptureFixture[str]):
    workspace = Workspace.open(old, create=False)
    workspace.dataset("images").drop_columns(["image_format"])
    capsys.readouterr()
    workspace = Workspace.open(old, create=False)
    assert "made by an older release and has no image_format" in capsys.readouterr().err
    with workspace.lock("run"):
        pass
    Workspace.open(old, create=False)
    assert capsys.readouterr().err == ""
