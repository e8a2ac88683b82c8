"""Exports to S3 (a server on loopback): all files or none, read back by our own reader and by fsspec."""

from pathlib import Path

import pytest

from engine.catalog import load_dataset
from engine.catalog.corpus import read_images
from engine.export import place
from engine.export.config import ExportConfig
from engine.export.export import export_images
from engine.images import content_hash, decode_image
from tests.export.helpers import Filled
from tests.store.conftest import bucket

__all__ = ["bucket"]


@pytest.fixture(autouse=True)
def no_server_of_before() -> None:
    """fsspec keeps a file system per process; that of another test has the address of a server that has ended."""
    from s3fs import S3FileSystem

    S3FileSystem.clear_instance_cache()


def names_at(url: str) -> list[str]:
    from fsspec.core import url_to_fs

    system, path = url_to_fs(url, skip_instance_cache=True)
    return sorted(one.removeprefix(f"{path}/") for one in system.find(path))


@pytest.mark.parametrize("name", ["parquet", "webdataset"])
def test_an_export_to_s3_is_the_one_to_a_folder(filled: Filled, exported, bucket: str, name: str):
    url = f"{bucket}/exports/{name}"
    config = ExportConfig(workspace=filled.workspace.uri, output=f"{url}/", format=name, audit=False)
    done = export_images(config)
    local = exported(name)
    assert done.splits == local.splits
    assert names_at(url) == sorted(
        one.relative_to(local.output).as_posix() for one in local.output.rglob("*") if one.is_file()
    )
    dataset = load_dataset(url)
    index = dataset.index("train")
    hashes = {content_hash(decode_image(image)) for image in read_images(dataset.location, index.keys.tolist())}
    assert hashes == {row["content_hash"] for row in filled.rows.values() if row["split"] == "train"}
    with pytest.raises(ValueError, match="holds objects; give a new prefix"):
        export_images(config)


def test_an_upload_that_fails_leaves_nothing(filled: Filled, bucket: str, monkeypatch: pytest.MonkeyPatch):
    """The third upload fails, as when the rights or the network go."""
    from s3fs import S3FileSystem

    uploads = []
    put = S3FileSystem.put_file

    def failing(self, source: str, target: str, **more):
        uploads.append(target)
        if len(uploads) == 3:
            raise PermissionError("Access Denied")
        return put(self, source, target, **more)

    monkeypatch.setattr(S3FileSystem, "put_file", failing)
    url = f"{bucket}/failed"
    with pytest.raises(ValueError, match=r"Access Denied.*check the bucket"):
        export_images(ExportConfig(workspace=filled.workspace.uri, output=url, format="folder", audit=False))
    assert len(uploads) == 3
    assert names_at(url) == []


def test_the_card_comes_last(filled: Filled, bucket: str, monkeypatch: pytest.MonkeyPatch):
    from s3fs import S3FileSystem

    uploads = []
    put = S3FileSystem.put_file

    def noting(self, source: str, target: str, **more):
        uploads.append(Path(target).name)
        return put(self, source, target, **more)

    monkeypatch.setattr(S3FileSystem, "put_file", noting)
    export_images(ExportConfig(workspace=filled.workspace.uri, output=f"{bucket}/last", audit=False))
    assert set(uploads[-2:]) == set(place.DESCRIBES)


def test_a_missing_bucket_and_other_urls_are_one_sentence(filled: Filled, bucket: str, tmp_path: Path):
    def export(output: object) -> None:
        export_images(ExportConfig(workspace=filled.workspace.uri, output=output, audit=False))

    with pytest.raises(ValueError, match=r"cannot use s3://no-such-bucket/x .*; check the bucket"):
        export("s3://no-such-bucket/x")
    with pytest.raises(ValueError, match="give a folder or s3://bucket/prefix"):
        export("gs://bucket/x")
    with pytest.raises(ValueError, match="has lost a slash"):
        export(Path("s3://bucket/x"))
