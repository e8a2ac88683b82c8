import os
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from engine.store import Workspace, verify

from .helpers import add, error_rows, recipe_ids, sound_rows


@pytest.fixture
def sound(workspace):
    workspace.ensure_encoder("a", 4)
    for start in range(0, 12, 4):
        add(workspace, sound_rows(range(start, start + 4)))
    add(workspace, error_rows(range(12, 14)), "errors")
    workspace.build_indices()
    return workspace


def data_file(workspace, place=1):
    fragment = workspace.dataset("images").get_fragments()[place]
    return Path(workspace.table_uri("images")) / "data" / fragment.metadata.files[0].path


def truncate(workspace):
    os.truncate(data_file(workspace), 100)
    return [4, 5, 6, 7]


def delete(workspace):
    data_file(workspace).unlink()
    return [4, 5, 6, 7]


def break_the_footer(workspace):
    data = bytearray(data_file(workspace).read_bytes())
    data[-40:] = bytes(40)
    data_file(workspace).write_bytes(data)
    return [4, 5, 6, 7]


def flip(workspace, needle, offset):
    data = bytearray(data_file(workspace).read_bytes())
    assert data.count(needle) == 1
    data[data.index(needle) + offset] ^= 0x40
    data_file(workspace).write_bytes(data)


def flip_a_byte_of_an_image(workspace):
    image = workspace.fetch(recipe_ids([5]), ["image"])["image"][0].as_py()
    flip(workspace, image, len(image) // 2)
    return [5]


def flip_a_byte_of_an_embedding(workspace):
    vector = workspace.fetch(recipe_ids([6]), ["embedding_a"])["embedding_a"][0].as_py()
    flip(workspace, np.array(vector, np.float32).tobytes(), 7)
    return [6]


def double_rows(workspace):
    add(workspace, sound_rows([2, 5, 12]))
    return []


def write_a_row_whose_id_is_anothers(workspace):
    rows = sound_rows([20])
    add(workspace, rows.set_column(0, rows.schema.field("id"), pa.array(recipe_ids([21]))))
    return []


def write_the_wrong_pixels(workspace):
    right, wrong = sound_rows([20, 21]), sound_rows([30, 31])
    place = right.column_names.index("image")
    add(workspace, right.set_column(place, right.schema.field("image"), wrong["image"]))
    return []


DAMAGES = [
    truncate,
    delete,
    break_the_footer,
    flip_a_byte_of_an_image,
    flip_a_byte_of_an_embedding,
    double_rows,
    write_a_row_whose_id_is_anothers,
    write_the_wrong_pixels,
]


def test_a_sound_workspace_is_called_sound(sound):
    report = sound.verify()
    assert report.sound
    assert report.findings == []
    assert report.rows == {"images": 12, "errors": 2}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_found_and_after_the_repair_the_workspace_is_sound(sound, damage):
    lost = damage(sound)
    workspace = Workspace.open(sound.uri)
    before = {name: workspace.dataset(name).version for name in ("images", "errors")}
    report = workspace.verify()
    assert not report.sound
    if damage in (truncate, delete, break_the_footer):
        (finding,) = report.findings
        assert finding.place == data_file(workspace).name
        assert finding.reason.endswith("it held 4 rows")
    assert before == {name: workspace.dataset(name).version for name in ("images", "errors")}
    repaired = workspace.verify(repair=True)
    assert repaired.sound
    assert repaired.findings == report.findings
    again = Workspace.open(sound.uri)
    assert again.verify().findings == []
    with again.lock("run"):
        add(again, sound_rows(lost)) if lost else None
    kept = again.fetch(recipe_ids(range(12)), ["seed"])
    assert kept["seed"].to_pylist() == list(range(12))
    assert again.count() == len(again.done_ids()) == (13 if damage is double_rows else 12)


@pytest.mark.parametrize("num_processes", [1, 2])
def test_a_table_is_verified_in_parts(sound, monkeypatch, num_processes):
    flip_a_byte_of_an_image(sound)
    double_rows(sound)
    workspace = Workspace.open(sound.uri)
    whole = workspace.verify()
    assert len(whole.findings) == 2  # the sound double of a damaged row is no duplicate
    monkeypatch.setattr(verify, "ROWS_PER_PART", 3)
    monkeypatch.setattr(verify, "FEW_ROWS", 0)
    assert workspace.verify(num_processes=num_processes) == whole


@pytest.mark.parametrize("damage", [truncate, delete])
def test_a_run_on_missing_files_is_refused_before_it_writes(sound, damage):
    damage(sound)
    workspace = Workspace.open(sound.uri)
    fix = re.escape(f"repair it with `imagefoundry verify {sound.uri} --repair` and start the run again")
    with pytest.raises(ValueError, match=rf"is damaged \(data file .*\.lance (is missing|has 100 bytes .*)\); {fix}"):
        workspace.done_ids()
    with pytest.raises(ValueError, match=fix), workspace.lock("run"):
        pass
    with workspace.lock("repair", check=False):
        pass


def test_a_file_that_cannot_be_read_is_told_in_one_sentence(sound):
    break_the_footer(sound)
    with pytest.raises(ValueError, match=r"^workspace .* is damaged \(.*\); repair it with [^\n]*$"):
        Workspace.open(sound.uri).done_ids()


def test_damage_in_a_bucket_is_found(s3_workspace):
    import s3fs

    s3_workspace.ensure_encoder("a", 4)
    for start in range(0, 8, 4):
        add(s3_workspace, sound_rows(range(start, start + 4)))
    file = s3_workspace.dataset("images").get_fragments()[0].metadata.files[0].path
    place = f"{s3_workspace.table_uri('images')}/data/{file}"
    s3fs.S3FileSystem(skip_instance_cache=True).pipe_file(place, b"short")
    workspace = Workspace.open(s3_workspace.uri)
    with pytest.raises(ValueError, match="has 5 bytes instead of"), workspace.lock("run"):
        pass
    assert workspace.verify(repair=True).sound
    assert workspace.verify().findings == []
    assert workspace.count() == 4
