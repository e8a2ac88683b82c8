"""Captions in the workspace: a part is whole or not there, others cannot commit under the lock, and positions name rows."""

import numpy as np
import pyarrow as pa
import pytest

from engine.store import Committer, Workspace, WorkspaceLost, write_fragments
from engine.store.captions import (
    build_caption_index,
    caption_fragments,
    caption_vectors,
    captions_at,
    corpora,
    corpus_parts,
    drop_halves,
    ensure_caption_encoder,
    guard_captions,
    nearest_captions,
)
from engine.store.vectors import from_matrix


def vectors(part: int, num: int) -> np.ndarray:
    found = np.random.default_rng(part).standard_normal((num, 8)).astype(np.float32)
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float16)


def captions(corpus: str, part: int, num: int, column: str) -> pa.Table:
    rows = range(num)
    return pa.table(
        {
            "corpus": [corpus] * num,
            "part": pa.array([part] * num, pa.int64()),
            "row": pa.array(rows, pa.int64()),
            "key": pa.array([part * 1000 + row for row in rows], pa.int64()),
            "url": [f"http://a.test/{corpus}/{part}/{row}" for row in rows],
            "caption": [f"{corpus} {part} {row}" for row in rows],
            column: from_matrix(vectors(part, num)),
        }
    )


def account(corpus: str, part: int, used: int) -> pa.Table:
    row = {"corpus": corpus, "encoder": "e", "part": part, "file": "f", "start": 0, "rows": 9, "used": used}
    return pa.Table.from_pylist([row | {"left": "{}", "settings": "{}", "run_id": "r"}])


def add(workspace: Workspace, corpus: str, part: int, num: int, used: int | None) -> None:
    """Captions of a part, and its account unless `used` is None."""
    column = ensure_caption_encoder(workspace, "e", 8)
    with Committer(workspace) as committer:
        if num:
            committer.add(write_fragments(workspace.uri, "captions", captions(corpus, part, num, column)))
        if used is not None:
            committer.add(write_fragments(workspace.uri, "caption_parts", account(corpus, part, used)))


def test_parts_whose_captions_and_account_disagree_are_removed_whole(tmp_path):
    workspace = Workspace.open(tmp_path / "w")
    for part, num, used in ((1, 5, 5), (2, 4, None), (3, 0, 4), (4, 3, 9), (5, 0, 0)):
        add(workspace, "web", part, num, used)
    add(workspace, "other", 2, 4, None)
    with workspace.lock("run"):
        guard_captions(workspace)
        assert drop_halves(workspace, "web") == 3
        assert drop_halves(workspace, "web") == 0
    assert sorted(corpus_parts(workspace, "web")["part"].to_pylist()) == [1, 5]
    left = workspace.read("captions")
    assert sorted(set(zip(left["corpus"].to_pylist(), left["part"].to_pylist(), strict=True))) == [
        ("other", 2),
        ("web", 1),
    ]
    assert corpora(workspace) == {"web": "e"}


def test_nobody_else_commits_captions_under_the_lock(tmp_path):
    workspace = Workspace.open(tmp_path / "w")
    column = ensure_caption_encoder(workspace, "e", 8)
    receipt = write_fragments(workspace.uri, "captions", captions("web", 1, 3, column))
    with workspace.lock("run"):
        guard_captions(workspace)
        add(Workspace.open(tmp_path / "w"), "web", 2, 3, 3)
        committer = Committer(workspace)
        committer.add(receipt)
        with pytest.raises(WorkspaceLost):
            committer.flush()
    assert workspace.read("captions")["part"].to_pylist() == [2, 2, 2]


def test_positions_skip_deleted_rows_and_other_corpora_and_new_rows_move_none(tmp_path):
    workspace = Workspace.open(tmp_path / "w")
    for part in range(12):
        add(workspace, "web" if part % 3 else "other", part, 20, 20)
    with workspace.lock("run"):
        guard_captions(workspace)
        with workspace.writing("captions") as table:
            table.delete("part = 4 OR row = 7")

    def found() -> dict[int, str]:
        pairs = {}
        for positions, read in caption_vectors(workspace, "web", "e"):
            rows = captions_at(workspace, positions[::-1], ["caption", "part", "row"]).to_pylist()[::-1]
            for position, vector, row in zip(positions.tolist(), read, rows, strict=True):
                assert np.array_equal(vector, vectors(row["part"], 20)[row["row"]].astype(np.float32))
                pairs[position] = row["caption"]
        return pairs

    before = found()
    assert len(before) == 7 * 19
    shards = [list(caption_vectors(workspace, "web", "e", [number])) for number in caption_fragments(workspace)]
    assert sum(len(positions) for shard in shards for positions, _ in shard) == len(before)
    add(workspace, "web", 20, 20, 20)
    assert {position: caption for position, caption in found().items() if position in before} == before
    assert len(found()) == len(before) + 20
    with workspace.lock("run"):
        workspace.compact(clean=False)
    assert len(found()) == len(before) + 20  # in other places, each with its own vector


def test_an_index_finds_what_the_table_finds(tmp_path):
    workspace = Workspace.open(tmp_path / "w")
    add(workspace, "web", 1, 600, 600)
    query = vectors(1, 600)[17].astype(np.float32)
    exact = nearest_captions(workspace, "web", "e", query, k=10)["url"].to_pylist()
    assert exact[0] == "http://a.test/web/1/17"
    with workspace.lock("index"):
        build_caption_index(workspace, "e")
    assert nearest_captions(workspace, "web", "e", query, k=10, share=1.0)["url"].to_pylist()[0] == exact[0]


def test_an_encoder_of_another_length_is_one_sentence(tmp_path):
    workspace = Workspace.open(tmp_path / "w")
    ensure_caption_encoder(workspace, "e", 8)
    with pytest.raises(ValueError, match="embedded by e with 8 numbers, not 16"):
        ensure_caption_encoder(workspace, "e", 16)


def test_damaged_captions_are_found_and_made_again_after_repair(tmp_path):
    workspace = Workspace.open(tmp_path / "w")
    add(workspace, "web", 1, 5, 5)
    add(workspace, "web", 2, 5, 5)
    file = max((tmp_path / "w/captions.lance/data").iterdir(), key=lambda path: path.stat().st_mtime_ns)
    file.write_bytes(file.read_bytes()[:-10])
    assert [finding.table_name for finding in workspace.verify().findings] == ["captions"]
    with pytest.raises(ValueError, match="is damaged"), workspace.lock("run"):
        guard_captions(workspace)
    workspace.verify(repair=True)
    with workspace.lock("run"):
        guard_captions(workspace)
        assert drop_halves(workspace, "web") == 1
    assert workspace.read("captions")["part"].to_pylist() == [1] * 5
