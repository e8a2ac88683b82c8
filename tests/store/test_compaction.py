import pickle
from datetime import timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.store import Committer, Workspace, compaction, write_fragments
from engine.store.compaction import TIERS, choose_groups

from .helpers import add, image_rows, recipe_ids


@given(made=st.lists(st.sampled_from([1e-5, 1e-4, 1e-3, 0.003, 0.01, 0.05, 0.3, 1.2]), min_size=1, max_size=300))
def test_the_bytes_rewritten_stay_within_three_times_those_made_and_four_times_the_smallest(made):
    sizes, rewritten = [], 0.0
    for one in made:
        sizes.append(one)
        groups = choose_groups(sizes)
        merged = [sum(sizes[place] for place in group) for group in groups]
        taken = {place for group in groups for place in group}
        sizes = [size for place, size in enumerate(sizes) if place not in taken] + merged
        rewritten += sum(merged)
    allowed = sum(one * sum(one < tier for tier in TIERS) for one in made)
    assert rewritten <= allowed * (1 + 1e-9)
    assert len(TIERS) == 4
    assert TIERS[-1] <= 1 / 4096
    assert sum(sizes) == pytest.approx(sum(made))


@given(sizes=st.lists(st.floats(1e-6, 2), max_size=60))
def test_groups_are_runs_of_neighbours_that_reach_a_tier_together(sizes):
    places = [place for group in choose_groups(sizes) for place in group]
    assert len(places) == len(set(places))
    for group in choose_groups(sizes):
        assert len(group) > 1
        total = sum(sizes[place] for place in group)
        assert any(total >= tier * (1 - 1e-9) and all(sizes[place] < tier for place in group) for tier in TIERS)


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(compaction, "ROWS_PER_FRAGMENT", 64)
    monkeypatch.setattr(compaction, "TIERS", (1.0, 1 / 4, 1 / 16))


def test_compaction_merges_small_files_and_leaves_large_ones(workspace, small):
    add(workspace, image_rows(range(64)))
    (large,) = workspace.dataset("images").get_fragments()
    assert not workspace.compaction_due("images")
    for index in range(64, 81):
        add(workspace, image_rows([index]))
    assert workspace.compaction_due("images")
    with workspace.lock("run"):
        assert workspace.compact() > 0
        assert not workspace.compaction_due("images")
        assert workspace.compact() == 0
    fragments = workspace.dataset("images").get_fragments()
    assert [fragment.count_rows() for fragment in fragments] == [64, 1, 16]
    assert fragments[0].metadata.files == large.metadata.files
    rows = workspace.fetch(recipe_ids(range(81)), ["seed", "image"])
    assert rows["seed"].to_pylist() == list(range(81))
    assert rows["image"].to_pylist() == [b"image %d" % index for index in range(81)]


def test_rows_are_committed_while_files_are_merged_and_unfinished_files_stay(any_workspace, small, monkeypatch):
    workspace, check = any_workspace, Workspace.check_lock
    for index in range(16):
        add(workspace, image_rows([index]))
    with workspace.lock("run"), Committer(workspace) as committer:
        unfinished = write_fragments(workspace.uri, "images", image_rows([16]))
        calls = []

        def beside(self):
            calls.append(self)
            if len(calls) == 2:  # the copy is made and not committed
                add(workspace, image_rows([17]))
            check(self)

        monkeypatch.setattr(Workspace, "check_lock", beside)
        workspace.compact(clean=False)
        assert len(calls) > 2
        committer.add(unfinished)
    assert len(workspace.dataset("images").get_fragments()) == 3
    assert sorted(workspace.scan(["seed"]).read_all()["seed"].to_pylist()) == list(range(18))


def test_indices_find_the_rows_that_were_merged(workspace, small):
    workspace.ensure_encoder("a", 4)
    vectors = np.random.default_rng(0).normal(size=(24, 4)).astype(np.float32)
    for index in range(20):
        add(workspace, image_rows([index], a=vectors[index : index + 1]))
    workspace.build_indices("a")
    for index in range(20, 24):
        add(workspace, image_rows([index], a=vectors[index : index + 1]))
    with workspace.lock("run"):
        workspace.compact(keep_versions_for=timedelta(0))
    assert len(workspace.dataset("images").get_fragments()) < 24
    assert workspace.fetch(recipe_ids(range(24)), ["seed"])["seed"].to_pylist() == list(range(24))
    assert [workspace.search(vector, "a", k=1)["seed"][0].as_py() for vector in vectors] == list(range(24))
    assert workspace.count("dataset = 'cars'") == 12


def test_files_that_an_index_covers_and_files_that_it_does_not_are_merged_apart(workspace, small):
    for index in range(9):
        add(workspace, image_rows([index]))
    workspace.build_indices()
    for index in range(9, 18):
        add(workspace, image_rows([index]))
    with workspace.lock("run"):
        workspace.compact(clean=False)
    assert not workspace.compaction_due("images")
    counts = [fragment.count_rows() for fragment in workspace.dataset("images").get_fragments()]
    assert sorted(counts) == [1, 1, 8, 8]
    assert workspace.fetch(recipe_ids(range(18)), ["seed"])["seed"].to_pylist() == list(range(18))


def test_merges_may_run_in_another_process_in_any_order(workspace, small):
    order = []
    for index in range(40):
        add(workspace, image_rows([index]))

    def elsewhere(merges):
        copied = [pickle.loads(pickle.dumps(merge)) for merge in merges]
        results = {number: pickle.loads(pickle.dumps(copied[number].copy())) for number in reversed(range(len(copied)))}
        order.append(len(copied))
        return (results[number] for number in range(len(copied)))

    with workspace.lock("run"):
        assert workspace.compact(run=elsewhere) > 0
    assert sum(order) >= 2
    assert workspace.fetch(recipe_ids(range(40)), ["seed"])["seed"].to_pylist() == list(range(40))
    assert len(workspace.dataset("images").get_fragments()) == sum(order)


def test_what_a_merge_has_freed_goes_back_to_the_system(workspace, small, monkeypatch):
    calls = []
    give_back = compaction.give_back_memory
    monkeypatch.setattr(compaction, "give_back_memory", lambda: calls.append(give_back()))
    add(workspace, image_rows(range(64)))
    with workspace.lock("run"):
        assert workspace.compact() == 0
        assert not calls, "nothing was merged"
        for index in range(64, 80):
            add(workspace, image_rows([index]))
        assert workspace.compact() > 0
    assert calls
