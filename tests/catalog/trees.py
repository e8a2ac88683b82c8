"""Awkward data in every layout: folders, shards and tables from a few words."""

import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from engine.catalog import load_dataset
from engine.catalog.corpus import read_images


def write_files(folder: Path, files: Mapping[str, bytes | str] | Sequence[str]) -> Path:
    """Files by their paths; a mere path holds its own name, `-> TARGET` makes a link."""
    folder.mkdir(parents=True, exist_ok=True)
    contents = files if isinstance(files, Mapping) else {name: name for name in files}
    for name, content in contents.items():
        name, _, target = name.partition(" -> ")
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if target:
            path.symlink_to(target)
        else:
            path.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def write_tar(path: Path, members: Sequence[tuple[str, bytes | str]]) -> Path:
    """A shard with these members, in their order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            data = content.encode() if isinstance(content, str) else content
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def write_shards(
    folder: Path, splits: Mapping[str, Sequence[tuple[str, bytes | str]]], names: Sequence[str] = ("cat", "dog")
) -> Path:
    """A webdataset folder with one shard per split."""
    write_files(folder, {"classnames.txt": "\n".join(names)})
    for split, members in splits.items():
        write_tar(folder / split / "0.tar", members)
        (folder / split / "nshards.txt").write_text("1")
    return folder


def samples(labels: Sequence[object], suffix: str = "cls", image: str = "png") -> list[tuple[str, str]]:
    """Members of one sample per label; the image's content is its number."""
    return [
        member
        for i, label in enumerate(labels)
        for member in ((f"s{i}.{image}", f"{i}"), (f"s{i}.{suffix}", f"{label}"))
    ]


def table(
    labels: Sequence[object], names: Sequence[str] = ("cat", "dog"), cells: Sequence[object] | None = None
) -> pa.Table:
    """A table as the datasets library writes it."""
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    images = [{"bytes": f"{i}".encode(), "path": None} for i in range(len(labels))] if cells is None else cells
    features = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": list(names)}}
    return pa.table({"image": pa.array(images, kind), "label": pa.array(labels)}).replace_schema_metadata(
        {"huggingface": json.dumps({"info": {"features": features}})}
    )


def write_tables(folder: Path, tables: Mapping[str, pa.Table]) -> Path:
    """Parquet files by their paths."""
    for name, each in tables.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(each, folder / name)
    return folder


def read(location: Path | str, split: str) -> list[tuple[str, str]]:
    """(class name, content) of every image of a split, sorted."""
    dataset = load_dataset(str(location))
    index = dataset.index(split)
    labels = index.labels(dataset.class_names, dataset.location)
    images = read_images(dataset.location, index.keys.tolist())
    return sorted((dataset.class_names[label], image.decode()) for label, image in zip(labels, images, strict=True))


def verdicts(location: Path | str, splits: Sequence[str] = ("train", "test")) -> dict[str, dict[str, int]]:
    """Verdict → reason → count, over all splits."""
    found: dict[str, dict[str, int]] = {"used": {}, "ignored": {}, "refused": {}}
    for account in load_dataset(str(location)).accounts(splits).values():
        for row in account.rows():
            counts = found[row["verdict"]]
            counts[row["reason"]] = counts.get(row["reason"], 0) + row["count"]
    return found
