from typing import Any

import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from engine.costs import PriceBook, attribute_billed, billed_usd, summarise, summarise_stages, totals


def image(
    run: str, source: str, usd: float, labels: float = 0.0, generator: str = "", seconds: float = 1.0
) -> dict[str, Any]:
    return {
        "run_id": run,
        "source": source,
        "dataset": "cars",
        "generator": generator,
        "device_seconds": seconds,
        "usd_compute": usd,
        "usd_labels": labels,
        "image": b"never read",
    }


IMAGES = pl.DataFrame(
    [
        image("a", "generative", 1.0, generator="sd21"),
        image("a", "generative", 2.0, generator="sd21"),
        image("a", "generative", 1.0, generator="sdxl"),
        image("b", "original", 0.5, labels=0.012),
    ]
)
RUNS = pl.DataFrame({"run_id": ["a", "b"], "usd_billed": [8.0, 0.5]})


def test_billed_is_nodes_times_wall() -> None:
    node = PriceBook.load().instance("azure-nc24ads-a100-v4-spot")
    assert billed_usd(node, 4, 1800) == pytest.approx(1.47 * 4 / 2)
    with pytest.raises(ValueError, match="wall_seconds is nan"):
        billed_usd(node, 1, float("nan"))
    with pytest.raises(ValueError, match="nodes is -1"):
        billed_usd(node, -1, 1)


def test_the_bill_is_spread_in_proportion_to_busy_dollars() -> None:
    # run a is billed twice what it was busy; run b is billed what it was busy, and its label comes on top
    assert attribute_billed(IMAGES, RUNS)["usd_billed"].to_list() == pytest.approx([2.0, 4.0, 2.0, 0.512])


def test_summaries_by_hand() -> None:
    rows = {(row["source"], row["generator"]): row for row in summarise(IMAGES, RUNS)}
    assert rows["generative", "sd21"] == pytest.approx(
        {
            "source": "generative",
            "dataset": "cars",
            "generator": "sd21",
            "images": 2,
            "device_seconds": 2.0,
            "usd_compute": 3.0,
            "usd_labels": 0.0,
            "usd_busy": 3.0,
            "usd_billed": 6.0,
            "usd_per_image": 1.5,
            "usd_billed_per_image": 3.0,
        }
    )
    assert rows["generative", "all"]["images"] == 3
    assert rows["generative", "all"]["usd_billed"] == pytest.approx(8.0)
    assert rows["original", ""]["usd_busy"] == pytest.approx(0.512)
    assert rows["original", ""]["usd_per_image"] == pytest.approx(0.512)
    assert len(rows) == 5


def test_an_arrow_table_gives_the_same_summary() -> None:
    assert summarise(IMAGES.to_arrow(), RUNS.to_arrow()) == summarise(IMAGES, RUNS)


def test_a_part_of_the_images_carries_its_own_part_of_the_bill() -> None:
    part = attribute_billed(IMAGES, RUNS).filter(pl.col("generator") == "sdxl")
    assert totals(part)["usd_billed"] == pytest.approx(2.0)
    assert totals(part.clear()) == {
        "images": 0,
        "device_seconds": 0.0,
        "usd_compute": 0.0,
        "usd_labels": 0.0,
        "usd_busy": 0.0,
        "usd_billed": 0.0,
        "usd_per_image": None,
        "usd_billed_per_image": None,
    }


def test_an_unknown_bill_is_unknown_and_not_zero() -> None:
    runs = pl.DataFrame({"run_id": ["a"], "usd_billed": [None]}, schema={"run_id": pl.String, "usd_billed": pl.Float64})
    rows = summarise(IMAGES, runs)  # run a still runs, run b has no record
    assert {row["usd_billed"] for row in rows} == {None}
    assert all(row["usd_busy"] > 0 for row in rows)


def test_runs_without_an_image_are_billed_all_the_same() -> None:
    runs = pl.DataFrame({"run_id": ["a", "b", "dead"], "usd_billed": [8.0, 0.5, 3.0]})
    last = summarise(IMAGES, runs)[-1]
    assert (last["source"], last["images"], last["usd_billed"]) == ("(no image)", 0, 3.0)


def test_missing_columns_are_named() -> None:
    with pytest.raises(ValueError, match="images lack the columns usd_compute, usd_labels"):
        summarise(IMAGES.drop("usd_compute", "usd_labels"), RUNS)
    with pytest.raises(ValueError, match="runs lack the columns usd_billed"):
        summarise(IMAGES, RUNS.drop("usd_billed"))


DOLLARS = st.floats(0, 1e4, allow_nan=False)


@settings(max_examples=40, deadline=None)
@given(
    images=st.lists(
        st.tuples(st.sampled_from("abc"), st.sampled_from(["generative", "retrieval"]), DOLLARS), max_size=30
    ),
    bills=st.fixed_dictionaries({"a": DOLLARS, "b": DOLLARS, "c": DOLLARS}),
)
@example(images=[("a", "generative", 0.0), ("a", "retrieval", 0.0)], bills={"a": 3.0, "b": 1.0, "c": 0.0})
def test_the_parts_of_the_bills_sum_to_the_bills(images: list[tuple[str, str, float]], bills: dict[str, float]) -> None:
    schema = dict.fromkeys(("run_id", "source", "dataset", "generator"), pl.String)
    schema |= dict.fromkeys(("device_seconds", "usd_compute", "usd_labels"), pl.Float64)
    table = pl.DataFrame([image(*row) for row in images], schema=schema)
    runs = pl.DataFrame({"run_id": list(bills), "usd_billed": list(bills.values())})
    rows = summarise(table, runs)
    billed = [row["usd_billed"] for row in rows if row["dataset"] == "cars" or row["source"] == "(no image)"]
    assert sum(billed) == pytest.approx(sum(bills.values()), rel=1e-9, abs=1e-9)
    assert all(part >= 0 for part in billed)


def work(
    stage: str, source: str, rows: int, seconds: float, labels: float = 0.0, dataset: str = "cars"
) -> dict[str, Any]:
    kind = {"run_id": "a", "stage": stage, "source": source, "dataset": dataset, "strategy": "", "generator": ""}
    return kind | {"rows": rows, "busy_seconds": seconds, "usd_compute": 2 * seconds, "usd_labels": labels}


def test_stages_are_summed_over_runs_and_data_sets_in_the_order_of_the_work() -> None:
    ledger = pl.DataFrame(
        [
            work("train", "", 0, 5.0),
            work("embed", "original", 3, 1.0),
            work("make", "original", 2, 1.0, labels=0.5),
            work("make", "original", 2, 2.0, dataset="pets") | {"run_id": "b"},
            work("filter", "", 9, 1.0),
        ]
    )
    rows = summarise_stages(ledger)
    assert [row["stage"] for row in rows] == ["make", "embed", "train", "filter"]
    assert rows[0] == {
        "stage": "make",
        "source": "original",
        "generator": "",
        "rows": 4,
        "busy_seconds": 3.0,
        "usd_compute": 6.0,
        "usd_labels": 0.5,
        "usd_per_row": 6.5 / 4,
    }
    assert rows[2]["usd_per_row"] is None
    assert summarise_stages(ledger.to_arrow()) == rows
    with pytest.raises(ValueError, match="rows of the ledger lack the columns rows"):
        summarise_stages(ledger.drop("rows"))
