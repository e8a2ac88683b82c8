"""What img2dataset writes is read as a pool, in each of its formats; the program itself runs where it is installed."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine.catalog.corpus import open_layout, read_images
from engine.images import decode_image
from engine.sources.retrieval import pool_account, read_pool
from tests.catalog.trees import write_files, write_tar
from tests.sources.fetching.server import picture, serving

FORMATS = ("files", "webdataset", "parquet")
INSTALLED = Path(__file__).parents[2] / ".img2dataset/bin/img2dataset"
"""Where `make img2dataset` puts the program; the variable IMG2DATASET names another one."""
PROGRAM = os.environ.get("IMG2DATASET") or (str(INSTALLED) if INSTALLED.exists() else "")


def write_output(folder: Path, form: str, shards: tuple[int, ...] = (0, 2), unfinished: int | None = None) -> Path:
    """Shards of three pictures and a failure each, in the layout of img2dataset 1.47."""
    folder.mkdir()
    for shard in (*shards, *([unfinished] if unfinished is not None else [])):
        name = f"{shard:05}"
        rows, members = [], []
        for number in range(4):
            key, good = f"{name}{number:04}", number != 2
            row = {"url": f"http://a.test/{key}", "caption": f"caption {key}", "key": key}
            row |= {"status": "success" if good else "failed_to_download", "error_message": None if good else "404"}
            data = picture(shard * 10 + number)
            rows.append(row | ({"jpg": data if good else None} if form == "parquet" else {}))
            if good:
                members += [(f"{key}.jpg", data), (f"{key}.txt", row["caption"]), (f"{key}.json", json.dumps(row))]
        pq.write_table(pa.Table.from_pylist(rows), folder / f"{name}.parquet")
        if form == "files":
            write_files(folder / name, dict(members))
        elif form == "webdataset":
            write_tar(folder / f"{name}.tar", members)
        if shard != unfinished:
            (folder / f"{name}_stats.json").write_text(json.dumps({"count": 4, "successes": 3}))
    return folder


@pytest.mark.parametrize("form", FORMATS)
def test_every_picture_has_its_caption_and_every_failure_is_counted(tmp_path: Path, form: str):
    location = str(write_output(tmp_path / "out", form))
    assert open_layout(location).title == "img2dataset folders"
    index = read_pool(location)
    keys = [f"{shard:05}{number:04}" for shard in (0, 2) for number in (0, 1, 3)]
    assert sorted(index.texts) == [f"caption {key}" for key in keys]
    assert index.kind == "caption"
    expected = {
        f"caption {shard:05}{number:04}": picture(shard * 10 + number) for shard in (0, 2) for number in range(4)
    }
    for text, data in zip(index.texts, read_images(location, index.keys.tolist()), strict=True):
        assert data == expected[text]
    counts = {(row["verdict"], row["reason"]): row["count"] for row in index.account.rows()}
    assert counts["used", ""] == 6
    assert counts["ignored", "img2dataset could not fetch it (failed_to_download)"] == 2
    assert not any(verdict == "refused" for verdict, _ in counts)


@pytest.mark.parametrize("form", FORMATS)
def test_a_picture_enlarged_from_less_than_32_pixels_is_ignored_and_counted(tmp_path: Path, form: str):
    folder = write_output(tmp_path / "out", form, shards=(0,))
    table = pq.read_table(folder / "00000.parquet")
    sizes = {  # of the fetched pictures, the first has grown, the second was and is small, the last was large enough
        "width": [256, 20, None, 256],
        "height": [256, 20, None, 32],
        "original_width": [31, 20, None, 400],
        "original_height": [500, 20, None, 32],
    }
    for name, values in sizes.items():
        table = table.append_column(name, pa.array(values, pa.int32()))
    pq.write_table(table, folder / "00000.parquet")
    index = read_pool(str(folder))
    assert sorted(index.texts) == ["caption 000000001", "caption 000000003"]
    counts = {row["reason"]: row["count"] for row in index.account.rows()}
    assert counts["img2dataset has enlarged it from less than 32x32 pixels"] == 1


@pytest.mark.parametrize("form", FORMATS)
def test_a_shard_that_is_not_finished_is_left_out_and_its_files_are_counted(tmp_path: Path, form: str):
    location = str(write_output(tmp_path / "out", form, unfinished=3))
    assert len(read_pool(location).keys) == 6
    rest = {row["reason"]: row["count"] for row in pool_account(location)[""].rows()}
    assert rest == {"of a shard that img2dataset has not finished": {"files": 10, "webdataset": 2, "parquet": 1}[form]}


def test_pictures_without_classes_are_no_data_set(tmp_path: Path):
    from engine.catalog.index import index_split

    location = str(write_output(tmp_path / "out", "webdataset"))
    with pytest.raises(ValueError, match="without classes; give it as a pool"):
        index_split(location, "train")


def test_a_table_without_its_pictures_is_one_sentence(tmp_path: Path):
    folder = write_output(tmp_path / "out", "webdataset")
    (folder / "00002.tar").unlink()
    with pytest.raises(ValueError, match=r"00002\.parquet has no pictures"):
        read_pool(str(folder))


@pytest.mark.skipif(not PROGRAM, reason="img2dataset is not installed (make img2dataset)")
@pytest.mark.parametrize("form", FORMATS)
def test_the_program_itself_writes_what_is_read(tmp_path: Path, form: str):
    program = shutil.which(PROGRAM)
    assert program, "IMG2DATASET names a program that is not there"
    with serving() as server:
        large = [f"ok/{number}?size=64" for number in range(20)]
        paths = [*large, "ok/20?size=16", "status/404", "html/as-image"]
        rows = [{"URL": server.url(path), "TEXT": f"caption of {path}", "similarity": 0.3} for path in paths]
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "meta.parquet")
        flags = {
            "url_list": tmp_path / "meta.parquet", "input_format": "parquet", "url_col": "URL", "caption_col": "TEXT",
            "output_format": form, "output_folder": tmp_path / "out", "processes_count": 1, "thread_count": 4,
            "image_size": 32, "resize_mode": "keep_ratio", "encode_format": "webp", "enable_wandb": False,
            "number_sample_per_shard": 10, "retries": 0, "timeout": 20,
        }  # fmt: skip
        command = [program, *(f"--{name}={value}" for name, value in flags.items())]
        done = subprocess.run(
            command, env=os.environ | {"NO_ALBUMENTATIONS_UPDATE": "1"}, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr[-2000:]
    location = str(tmp_path / "out")
    index = read_pool(location)
    assert sorted(index.texts) == sorted(f"caption of {path}" for path in large)
    assert all(decode_image(data).shape == (32, 32, 3) for data in read_images(location, index.keys.tolist()))
    reasons = {row["reason"]: row["count"] for row in index.account.rows() if row["verdict"] == "ignored"}
    assert sum(count for reason, count in reasons.items() if reason.startswith("img2dataset could not")) == 2
    assert reasons["img2dataset has enlarged it from less than 32x32 pixels"] == 1
