"""Rule 1: every file is used, ignored or refused, whatever the tree, the shards and the tables look like."""

import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.catalog.account import Account, Left
from engine.catalog.corpus import open_layout, read_each
from engine.catalog.index import SplitIndex, account_of, index_split
from tests.catalog.trees import samples, table, write_files, write_shards, write_tables, write_tar

NAMES = st.sampled_from(
    [
        "cat",
        "dog",
        "Dog",
        "train",
        "Training",
        "test",
        "val",
        "seg_test",
        "__MACOSX",
        ".git",
        "a b",
        "1",
        "-1",
        "ü",
        "x.jpg",
        "pets",
    ]
)
FILES = st.builds(
    "{}{}".format,
    st.sampled_from(["0", "1", "2", "._0", "", "a.b", "Thumbs", "classnames", "README", "cache-1", "train-0", "été"]),
    st.sampled_from([".jpg", ".JPG", ".png", ".bmp", ".heic", ".txt", ".db", ".md", "", ".json", ".jpg.tmp", ".webp"]),
)
PATHS = st.builds(lambda folders, file: "/".join([*folders, file or "file"]), st.lists(NAMES, max_size=4), FILES)
MANY = settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])


def accounted(location: Path, splits: tuple[str, ...] = ("train", "test"), suffix: str = "cls") -> dict[str, Account]:
    indices: dict[str, SplitIndex] = {}

    def read(split: str) -> SplitIndex:
        indices[split] = index_split(str(location), split, suffix)
        return indices[split]

    accounts = account_of(str(location), splits, read)
    planned = sum(tally.count for each in accounts.values() for _, tally in each.tallies("refused") if tally.planned)
    used = sum(each.count("used") for each in accounts.values())
    assert used + planned == sum(len(index.keys) for index in indices.values())
    for index in indices.values():
        assert len(set(index.keys.tolist())) == len(index.keys)
        assert len(read_each(str(location), index.keys.tolist())) == len(index.keys)
    return accounts


def is_one_line(error: ValueError, says: str = "") -> None:
    assert "\n" not in str(error)
    assert says in str(error)


def total(accounts: dict[str, Account]) -> int:
    counts = [sum(each.count(verdict) for each in accounts.values()) for verdict in ("used", "ignored", "refused")]
    assert sum(counts) == sum(each.count() for each in accounts.values())
    return sum(counts)


@MANY
@given(
    st.lists(PATHS, max_size=25, unique=True),
    st.lists(st.tuples(PATHS, st.sampled_from(["/nowhere", ".", "..", "cat"])), max_size=4),
)
def test_a_tree_of_files_and_links_is_accounted_for(paths: list[str], links: list[tuple[str, str]]):
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "data"
        written = 0
        folder.mkdir()
        for path in paths:
            try:
                write_files(folder, [path])
                written += 1
            except OSError:  # a file stands where a folder should
                continue
        for path, target in links:
            try:
                write_files(folder, [f"{path} -> {target}"])
            except OSError:
                continue
        try:
            layout = open_layout(str(folder))
            splits = layout.splits()
        except ValueError as error:
            is_one_line(error)
            return
        wanted = tuple(split for split in ("train", "test") if splits == ("",) or split in splits)
        try:
            accounts = accounted(folder, wanted)
        except ValueError as error:
            is_one_line(error)
            return
        # links to folders show files again, so there may be more than were written
        assert total(accounts) == len(layout.folder.files)
        assert total(accounts) >= written


MEMBERS = st.tuples(
    st.sampled_from(["s0", "s1", "s2", "a/s0", "./s1", "._s0", "__MACOSX/s0", "s3.x", "é"]),
    st.sampled_from(["png", "PNG", "jpg", "cls", "json", "heic", "seg.png", "", "txt"]),
    st.sampled_from(["0", "1", "2", "-1", "--1", "", "cat", "\ufeff1"]),
)


@MANY
@given(st.lists(MEMBERS, max_size=20), st.integers(0, 6), st.booleans())
def test_the_members_of_shards_are_accounted_for(members: list[tuple[str, str, str]], good: int, counted: bool):
    named = [(f"{stem}.{suffix}" if suffix else stem, content) for stem, suffix, content in members]
    kept = [(f"good{name}", content) for name, content in samples([i % 2 for i in range(20 * good)])]
    with tempfile.TemporaryDirectory() as place:
        folder = write_shards(Path(place) / "data", {"train": kept + named, "val": samples([0, 1])})
        if not counted:
            for split in ("train", "val"):
                (folder / split / "nshards.txt").unlink()
        write_tar(folder / "train" / "7.tar", [])
        write_files(folder, [".hidden.tar", "notes.txt"])
        try:
            accounts = accounted(folder)
        except ValueError as error:
            is_one_line(error, says="cannot be used")
            assert good < 2
            return
        train = accounts["train"]
        labels = 20 * good + sum(1 for _ in _paired(named))
        assert train.count() + labels == len(kept) + len(named)
        # the lists, the hidden tar, the notes; and the tar that is not counted, which is empty
        assert accounts[""].count() == (6 if counted else 3)
        assert accounts["validation"].count("used") == 2


def _paired(members: list[tuple[str, str]]):
    """Labels that belong to an image of the shard: the first of a key whose first image is there."""
    images, labels = set(), set()
    for name, _ in members:
        name = name.removeprefix("./")
        folder, slash, base = name.rpartition("/")
        stem, _, suffix = base.partition(".")
        if base.startswith(".") or "__MACOSX" in name:
            continue
        if suffix.lower() in ("png", "jpg"):
            images.add(folder + slash + stem)
        elif suffix.lower() == "cls":
            labels.add(folder + slash + stem)
    return images & labels


@MANY
@given(
    st.dictionaries(
        st.sampled_from(["train_0", "train-1", "Test", "val", "x", ".hidden", "data/train", "cache-1", "test/0"]),
        st.lists(st.sampled_from([0, 1, -1, None, 2]), max_size=12),
        max_size=5,
    )
)
def test_the_rows_of_tables_are_accounted_for(tables: dict[str, list[int | None]]):
    with tempfile.TemporaryDirectory() as place:
        written = {f"{name}.parquet": table([0, 1, *labels]) for name, labels in tables.items()}
        folder = write_tables(Path(place) / "data", written)
        write_files(folder, ["README.md", "dataset_infos.json"])
        try:
            layout = open_layout(str(folder))
            splits = layout.splits()
            wanted = tuple(split for split in ("train", "test") if splits == ("",) or split in splits)
            accounts = accounted(folder, wanted)
        except ValueError as error:
            is_one_line(error)
            return
        rows = 0
        for name, labels in tables.items():
            is_read = any(f"{name}.parquet" in files for files in _read_files(layout, wanted))
            rows += len(labels) + 2 if is_read else 1
        assert total(accounts) == rows + 2


def _read_files(layout, wanted):
    for split in layout.splits():
        if split in ("", *wanted):
            yield [part.name for part in layout.parts(split)]


def test_names_of_equal_reasons_are_counted_together():
    account = Account()
    for number in range(5):
        account.leave(Left("ignored", "hidden", f".{number}"))
        account.add("used", "", f"{number}.png")
    account.leave(Left("refused", "a link to nothing", "9.png"))
    assert account.rows() == [
        {"verdict": "used", "reason": "", "count": 5, "examples": "0.png, 1.png, 2.png"},
        {"verdict": "ignored", "reason": "hidden", "count": 5, "examples": ".0, .1, .2"},
        {"verdict": "refused", "reason": "a link to nothing", "count": 1, "examples": "9.png"},
    ]
    assert account.line() == "5 used, 5 ignored (hidden: 5), 1 refused (a link to nothing: 9.png)"
    assert Account.from_json(account.to_json()).rows() == account.rows()


@pytest.mark.parametrize("damage", [b"", b"no entry", b"PK\x03\x04", b"\x93NUMPY\x01\x00"])
def test_a_broken_entry_of_the_cache_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: bytes):
    from engine.catalog import index

    monkeypatch.setenv("IMAGEFOUNDRY_CACHE", str(tmp_path / "cache"))
    folder = write_shards(tmp_path / "pets", {"train": samples([0, 1, "x"] * 2 + [0, 0, 0])})
    first = index_split(str(folder), "train")
    (entry,) = (tmp_path / "cache" / "index").iterdir()
    whole = entry.read_bytes()
    for content in (damage, whole[: len(whole) // 2], whole[:-5], bytes(reversed(whole))):
        entry.write_bytes(content)
        index._load_or_read.cache_clear()
        again = index_split(str(folder), "train")
        assert (again.keys == first.keys).all()
        assert again.account.rows() == first.account.rows()
        assert entry.stat().st_size == len(whole)
