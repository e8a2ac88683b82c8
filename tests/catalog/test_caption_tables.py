"""Tables of captions: whose columns are known, which rows enter a corpus, and that every file and row is accounted for."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.catalog.caption_tables import RowRules, plan_parts, read_part
from engine.catalog.captions import KeySet, caption_keys, near_duplicate_key, normal_caption

LAION = {
    "URL": "http://a.test/1.jpg",
    "TEXT": "a cat",
    "WIDTH": 64,
    "HEIGHT": 48,
    "similarity": 0.31,
    "NSFW": "UNLIKELY",
}


def write(folder: Path, rows: list[dict], name: str = "0.parquet", **options) -> Path:
    folder.mkdir(exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), folder / name, **options)
    return folder


def read_all(folder: Path, rules: RowRules | None = None) -> tuple[list[dict], dict[str, int]]:
    """Rows that enter the corpus, and reason → number of the others."""
    rules = rules or RowRules()
    rows, left = [], {}
    for part in plan_parts(str(folder), rules)[0]:
        found = read_part(str(folder), part, rules)
        assert len(found.keys) == found.table.num_rows
        rows += found.table.to_pylist()
        for reason, number in found.left.items():
            left[reason] = left.get(reason, 0) + number
    return rows, left


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("  a\t red\n\napple ", "a red apple"),
        ("Tom &amp; Jerry&#39;s <b>caf\u00e9</b>", "Tom & Jerry's caf\u00e9"),
        ("\uff26\uff55\uff4c\uff4c\u3000width \ufb01sh", "Full width fish"),
        ("zero\u200bwidth\ufeff", "zero width"),
        ("bell\x07 nul\x00", "bell nul"),
        ("5 < 7 and 9 > 8", "5 8"),
        ("<br>", ""),
        ("x" * 900, "x" * 500),
    ],
)
def test_a_caption_has_one_clean_form_which_stays_as_it_is(text: str, normal: str):
    assert normal_caption(text) == normal
    assert normal_caption(normal) == normal


@pytest.mark.parametrize(
    ("left", "right", "same"),
    [
        ("A red apple.", "a Red  apple", True),
        ("red-apple / stock_photo", "Red apple stock photo", True),
        ("very very red", "very red", True),
        ("Boeing 737-400", "Boeing 747", False),
        ("man bites dog", "dog bites man", False),
        ("!!!", "???", False),
    ],
)
def test_near_duplicates_share_their_words_in_order(left: str, right: str, same: bool):
    assert (near_duplicate_key(left) == near_duplicate_key(right)) == same
    keys = caption_keys([left, right])
    assert (keys[0] == keys[1]) == same


def test_keys_are_the_same_on_every_machine():
    assert caption_keys(["a red apple"]).tolist() == [
        8200019768709763039
    ]  # stored in workspaces: another hash would double captions
    assert caption_keys(["a red apple"]).tolist() == caption_keys(["A RED APPLE!"]).tolist()


@given(st.lists(st.lists(st.integers(-5, 5)), max_size=8))
def test_a_key_is_claimed_once_by_the_first_that_has_it(batches: list[list[int]]):
    keys, seen = KeySet(), set()
    for batch in batches:
        expected = [not (key in seen or seen.add(key)) for key in batch]
        assert keys.claim(np.array(batch, np.int64)).tolist() == expected
    assert len(keys) == len(seen)


@pytest.mark.parametrize(
    "row",
    [
        LAION,
        {
            "uid": "1",
            "url": "http://a.test/1.jpg",
            "text": "a cat",
            "original_width": 64,
            "original_height": 48,
            "clip_b32_similarity_score": 0.31,
        },
        {"url": b"http://a.test/1.jpg", "caption": b"a cat", "width": "64", "height": "48", "similarity": "0.31"},
        {
            "image_link": "http://a.test/1.jpg",
            "alt_text": "a cat",
            "width": 64.0,
            "height": 48.0,
            "CLIP_similarity": 0.31,
            "width_cm": 3,
        },
    ],
)
def test_the_columns_of_known_tables_are_recognised(tmp_path: Path, row: dict):
    rows, _ = read_all(write(tmp_path / "tables", [row]))
    assert rows == [
        {
            "row": 0,
            "url": "http://a.test/1.jpg",
            "caption": "a cat",
            "similarity": pytest.approx(0.31),
            "width": 64,
            "height": 48,
        }
    ]


def test_unknown_columns_are_one_sentence_that_names_the_flag(tmp_path: Path):
    folder = write(tmp_path / "tables", [{"where": "http://a.test/1.jpg", "what": "a cat"}])
    with pytest.raises(ValueError, match=r"where, what is known to hold the urls; name it with --url-column") as caught:
        plan_parts(str(folder), RowRules())
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="has no column 'wher'"):
        plan_parts(str(folder), RowRules(url_column="wher"))
    rows, _ = read_all(folder, RowRules(url_column="where", caption_column="what"))
    assert [row["caption"] for row in rows] == ["a cat"]


def test_every_row_is_taken_or_counted_under_one_reason(tmp_path: Path):
    others = [
        {"URL": None},
        {"URL": "ftp://a.test/1.jpg"},
        {"URL": "http://" + "a" * 3000},
        {"TEXT": None},
        {"TEXT": " \u200b"},
        {"WIDTH": 31},
        {"HEIGHT": 31, "similarity": 0.1},
        {"similarity": 0.29},
        {"NSFW": "NSFW"},
        {"NSFW": None, "WIDTH": None, "similarity": None},
    ]
    folder = write(tmp_path / "tables", [LAION, *(LAION | other for other in others)])
    rows, left = read_all(folder, RowRules(least_similarity=0.3, least_pixels=32))
    assert left == {
        "refused: no http address": 3,
        "refused: no caption": 2,
        "ignored: a side under 32 pixels": 2,
        "ignored: similarity below 0.3": 1,
        "ignored: flagged nsfw": 1,
    }
    assert [row["row"] for row in rows] == [0, 10]  # what a table does not tell is no reason to leave a row out
    assert rows[1]["width"] is None
    assert len(read_all(folder, RowRules(keep_flagged=("nsfw",)))[0]) == 6


@pytest.mark.parametrize(("column", "value", "flag"), [("punsafe", 0.5, "unsafe"), ("pwatermark", 0.9, "watermark")])
def test_probabilities_are_flags_from_a_threshold_on(tmp_path: Path, column: str, value: float, flag: str):
    rows = [LAION | {column: number} for number in (value, value - 0.2, None)]
    found, left = read_all(write(tmp_path / "tables", rows))
    assert left == {f"ignored: flagged {flag}": 1}
    assert len(found) == 2


@pytest.mark.parametrize("group_rows", [7, 1_000, 40_000, 300_000])
def test_parts_cover_every_row_once_whatever_the_row_groups(tmp_path: Path, group_rows: int):
    num = 300_000
    (tmp_path / "tables").mkdir()
    table = pa.table({"url": pa.array(["http://a.test/"] * num), "text": pa.array(np.arange(num).astype(str))})
    pq.write_table(
        table.slice(0, num if group_rows > 7 else 700), tmp_path / "tables/0.parquet", row_group_size=group_rows
    )
    parts, _ = plan_parts(str(tmp_path / "tables"), RowRules())
    rows, _ = read_all(tmp_path / "tables")
    total = num if group_rows > 7 else 700
    assert [row["row"] for row in rows] == list(range(total))
    assert [row["caption"] for row in rows] == [str(number) for number in range(total)]
    assert max(part.num_rows for part in parts) <= 131_072
    assert len({part.number("x") for part in parts}) == len(parts)


def test_every_file_is_used_ignored_or_refused(tmp_path: Path):
    folder = write(tmp_path / "tables", [LAION])
    write(folder, [LAION], "more.PARQUET")
    whole = (folder / "0.parquet").read_bytes()
    (folder / "cut.parquet").write_bytes(whole[:-9])
    (folder / "text.parquet").write_text("no table")
    (folder / ".hidden").write_text("")
    (folder / "notes.csv").write_text("")
    pq.write_table(pa.Table.from_pylist([LAION]).slice(0, 0), folder / "empty.parquet")
    parts, account = plan_parts(str(folder), RowRules())
    counts = {(row["verdict"], row["reason"]): row["count"] for row in account.rows()}
    assert counts == {
        ("used", ""): 2,
        ("ignored", "hidden"): 1,
        ("ignored", "no parquet table"): 1,
        ("ignored", "a table without rows"): 1,
        ("refused", "no parquet table, or cut off"): 2,
    }
    assert [part.file for part in parts] == ["0.parquet", "more.PARQUET"]


def test_a_folder_without_tables_and_rows_that_are_damaged_are_one_sentence(tmp_path: Path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="has no parquet table with rows"):
        plan_parts(str(tmp_path / "empty"), RowRules())
    folder = write(
        tmp_path / "tables", [LAION | {"TEXT": f"cat {number}"} for number in range(5000)], compression="zstd"
    )
    (part,), _ = plan_parts(str(folder), RowRules())
    data = bytearray((folder / "0.parquet").read_bytes())
    data[100:400] = bytes(300)
    (folder / "0.parquet").write_bytes(data)
    with pytest.raises(ValueError, match="the rows cannot be read") as caught:
        read_part(str(folder), part, RowRules())
    assert "\n" not in str(caught.value)


def test_invalid_rules_are_one_sentence():
    with pytest.raises(ValueError, match="there is no flag 'nude'; give any of nsfw, unsafe, watermark"):
        RowRules(keep_flagged=("nude",)).check()
    with pytest.raises(ValueError, match="least pixels"):
        RowRules(least_pixels=-1).check()
