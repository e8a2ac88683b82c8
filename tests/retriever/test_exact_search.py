import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.retriever import exact_search
from engine.retriever.blocks import Block, cut_blocks
from engine.retriever.exact_search import NO_CLASS, top_k


def brute_force(queries, rows, k, query_classes=None, classes=None):
    """Scores in float64, rounded to float32; ties by the lower row."""
    scores = (queries.astype(np.float64) @ rows.astype(np.float64).T).astype(np.float32)
    if query_classes is not None:
        scores[(query_classes[:, None] == classes) & (query_classes[:, None] != NO_CLASS)] = -np.inf
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    best = np.take_along_axis(scores, order, axis=1)
    return np.where(np.isfinite(best), order, -1), best


def draw(num, dimension, num_classes, seed, decay=1.0):
    random = np.random.default_rng(seed)
    scales = np.arange(1, dimension + 1) ** (-decay / 2)
    centres = np.random.default_rng(7).normal(size=(num_classes, dimension)) * scales
    classes = random.integers(num_classes, size=num)
    vectors = centres[classes] + 0.7 * random.normal(size=(num, dimension)) * scales + 0.5 * scales[0]
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32), classes


def check(found, expected):
    np.testing.assert_array_equal(found.rows, expected[0])
    np.testing.assert_array_equal(found.scores, expected[1])


@pytest.fixture(params=[0.001, 100.0, "half"], ids=["rounded", "not rounded", "in half precision, as on a GPU"])
def products(request, monkeypatch):
    """Processors whose 8-bit products are fast, those whose are slow, and the arithmetic of GPUs."""
    if request.param == "half":
        monkeypatch.setattr(exact_search, "_is_gpu", lambda device: True)
    else:
        monkeypatch.setattr(exact_search, "_rounded_product_cost", lambda: request.param)


@pytest.mark.parametrize("decay", [0.0, 2.0])
@pytest.mark.parametrize("k", [1, 5])
@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.usefixtures("products")
def test_the_search_finds_what_brute_force_finds(decay, k, masked):
    queries, codes = draw(700, 64, 30, 1, decay)
    rows, row_codes = draw(9_000, 64, 30, 2, decay)
    codes[::50] = NO_CLASS
    wanted = codes if masked else None
    found = top_k(queries, cut_blocks(rows, row_codes, 2_500), k=k, query_classes=wanted)
    check(found, brute_force(queries, rows, k, wanted, row_codes))


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.usefixtures("products")
@given(
    st.integers(1, 40), st.integers(1, 90), st.integers(1, 9), st.integers(1, 4), st.integers(1, 30), st.integers(0, 9)
)
def test_blocks_shapes_and_scales_do_not_matter(num_queries, num_rows, dimension, num_classes, block, seed):
    random = np.random.default_rng(seed)
    # whole numbers make many ties; norms differ, and some are zero
    queries = random.integers(-2, 3, size=(num_queries, dimension)).astype(np.float32)
    rows = random.integers(-2, 3, size=(num_rows, dimension)).astype(np.float32) * 10.0 ** (seed - 4)
    codes, row_codes = (random.integers(-1, num_classes, size=num) for num in (num_queries, num_rows))
    k = 1 + seed % 4
    shuffled = list(cut_blocks(rows, row_codes, block))
    random.shuffle(shuffled)
    found = top_k(queries, shuffled, k=k, query_classes=codes)
    expected = brute_force(queries, rows, k, codes, row_codes)
    shown = min(k, num_rows)
    check(exact_search.TopK(found.rows[:, :shown], found.scores[:, :shown]), expected)
    assert (found.rows[:, shown:] == -1).all()


def test_screening_spares_most_of_the_product(monkeypatch):
    queries, codes = draw(512, 128, 40, 1, decay=2.0)
    rows, row_codes = draw(20_000, 128, 40, 2, decay=2.0)
    splits, rechecked = [], []
    plan, take = exact_search._Search._plan, exact_search._Search._keep

    def note_plan(search, some):
        plan(search, some)
        splits.append(search._split)

    def note_pairs(search, places, tile, pairs):
        rechecked.append(len(pairs))
        take(search, places, tile, pairs)

    monkeypatch.setattr(exact_search, "_rounded_product_cost", lambda: 100.0)
    monkeypatch.setattr(exact_search._Search, "_plan", note_plan)
    monkeypatch.setattr(exact_search._Search, "_keep", note_pairs)
    found = top_k(queries, cut_blocks(rows, row_codes, 5_000), query_classes=codes)
    check(found, brute_force(queries, rows, 1, codes, row_codes))
    assert splits[-1] <= 64
    assert sum(rechecked) < 0.01 * len(queries) * len(rows)


def test_rounded_products_spare_most_of_the_others_and_bound_what_they_stand_for(monkeypatch):
    monkeypatch.setattr(exact_search, "_rounded_product_cost", lambda: 0.01)
    queries, codes = draw(512, 128, 40, 1, decay=0.0)
    rows, row_codes = draw(20_000, 128, 40, 2, decay=0.0)
    taken = []
    take = exact_search._Search._take

    def note(search, places, tile, bounds, slack):
        taken.append(bounds.numel() if bounds.dtype == torch.int32 else 0)
        take(search, places, tile, bounds, slack)

    monkeypatch.setattr(exact_search._Search, "_take", note)
    found = top_k(queries, cut_blocks(rows, row_codes, 5_000), query_classes=codes)
    check(found, brute_force(queries, rows, 1, codes, row_codes))
    assert 0 < sum(taken) < 0.3 * len(queries) * len(rows)

    squares = torch.from_numpy((rows.astype(np.float64) ** 2).sum(1)).float()
    one, other = (
        exact_search._Rounded.of(torch.from_numpy(rows[part]), squares[part]) for part in (slice(100), slice(100, 300))
    )
    product = (one.numbers.double() @ other.numbers.double().T) * one.step * other.step
    most = one.most_lost(squares[:100].sqrt(), other, squares[100:300])
    true = torch.from_numpy(rows[:100].astype(np.float64) @ rows[100:300].astype(np.float64).T)
    assert (true - product <= most[:, None]).all()
    assert most.max() < 0.05


def test_bfloat16_screening_changes_no_result(monkeypatch):
    """As on a GPU, but on this machine's processor."""
    create = exact_search._Search.__init__

    def like_a_gpu(search, *arguments):
        create(search, *arguments)
        search._on_gpu, search._dtype, search._tile = True, torch.bfloat16, (256, 4_096)
        search._queries_screen = search._queries.bfloat16()
        search._buffer = torch.empty(256 * 4_096, dtype=torch.bfloat16)

    monkeypatch.setattr(exact_search._Search, "__init__", like_a_gpu)
    queries, codes = draw(300, 32, 10, 1)
    rows, row_codes = draw(6_000, 32, 10, 2)
    found = top_k(queries, cut_blocks(rows, row_codes, 5_000), k=3, query_classes=codes)
    check(found, brute_force(queries, rows, 3, codes, row_codes))


def test_where_only_the_own_class_is_left_nothing_is_found():
    rows = np.eye(4, dtype=np.float32)
    found = top_k(rows[:2], [Block(np.arange(4), rows, np.zeros(4, int))], k=2, query_classes=np.array([0, 1]))
    assert found.rows.tolist() == [[-1, -1], [1, 0]]
    assert found.scores.tolist() == [[-np.inf, -np.inf], [1.0, 0.0]]


def test_no_rows_and_no_queries_are_no_error():
    assert top_k(np.ones((2, 3), np.float32), []).rows.tolist() == [[-1], [-1]]
    assert top_k(np.ones((0, 3), np.float32), cut_blocks(np.ones((5, 3), np.float32))).rows.shape == (0, 1)


@pytest.mark.parametrize(
    ("queries", "rows", "classes", "sentence"),
    [
        (np.full((1, 4), np.nan), np.ones((2, 4)), None, "a query holds NaN"),
        (np.ones((1, 4)), np.array([[1, 1, 1, 1], [1, np.inf, 1, 1]]), None, "row 1 of the database holds NaN or inf"),
        (np.ones((1, 4)), np.ones((2, 5)), None, r"have 4 numbers and the database's vectors have shape \(2, 5\)"),
        (np.ones(4), np.ones((2, 4)), None, r"queries have shape \(4,\)"),
        (np.ones((1, 4)), np.ones((2, 4)), np.zeros(1), "says no classes"),
    ],
)
def test_what_cannot_be_searched_is_refused(queries, rows, classes, sentence):
    with pytest.raises(ValueError, match=sentence):
        top_k(queries.astype(np.float32), cut_blocks(rows.astype(np.float32)), query_classes=classes)
