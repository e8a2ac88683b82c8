import pytest

from engine.reports.tables import average_over_seeds, best_cells, format_usd, format_value, headlines, made_and_spent


def row(source: str, seed: int, probe: float | None, usd: float = 1.0, strategy: str = "", group: str = "rare") -> dict:
    return {
        "group": group,
        "dataset": "d",
        "source": source,
        "strategy": strategy,
        "shots": 5,
        "seed": seed,
        "zero_shot": 0.2,
        "linear_probe": probe,
        "usd_busy": usd,
    }


def test_seeds_are_averaged_by_hand() -> None:
    first, second = average_over_seeds(
        [row("original", 0, 0.4), row("original", 1, 0.6, 3.0), row("retrieval", 0, 0.3)]
    )
    assert (first["source"], first["seeds"], first["linear_probe"], first["linear_probe_sd"]) == (
        "retrieval",
        1,
        0.3,
        None,
    )
    assert (second["seeds"], second["linear_probe"], second["usd_busy"]) == (2, pytest.approx(0.5), 2.0)
    assert second["linear_probe_sd"] == pytest.approx(0.1 * 2**0.5)


def test_a_missing_score_is_left_out_of_the_mean() -> None:
    (only,) = average_over_seeds([row("original", 0, None), row("original", 1, 0.6), row("original", 2, float("nan"))])
    assert (only["linear_probe"], only["linear_probe_sd"], only["seeds"]) == (0.6, None, 3)


def test_groups_keep_the_order_they_were_given_in() -> None:
    rows = average_over_seeds([row("original", 0, 0.5, group=group) for group in ("rare", "common")])
    assert [each["group"] for each in rows] == ["rare", "common"]


def test_the_headline_chooses_no_strategy_on_the_test_images() -> None:
    rows = [row("generative", 0, 0.3, 9.0, "st"), row("generative", 0, 0.4, 2.0, "rd"), row("original", 0, 0.8, 70.0)]
    assert headlines({"tradeoff": rows}) == [
        "rare, 5 shots, linear probe: generative 35.0% (mean of 2 strategies, each) for $5.50, "
        "original 80.0% for $70.00 (zero-shot 20.0%)."
    ]


def test_an_unknown_bill_makes_the_total_unknown() -> None:
    costs = [{"dataset": "d", "images": 2, "usd_busy": 1.0, "usd_billed": bill} for bill in (1.0, None)]
    assert made_and_spent({"costs": costs})["usd_billed"] is None
    assert made_and_spent({"costs": costs[:1]})["usd_billed"] == 1.0


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "$0"),
        (1234.5, "$1,234.50"),
        (0.5, "$0.50"),
        (0.012, "$0.012"),
        (2.54e-4, "$2.54e-04"),
        (3.93e-5, "$3.93e-05"),
        (1e-8, "$1.00e-08"),
        (-0.012, "-$0.012"),
    ],
)
def test_dollars_keep_three_digits(value: float, text: str) -> None:
    assert format_usd(value) == text


@pytest.mark.parametrize(
    ("column", "value", "text"),
    [
        ("cler", 0.1234, "12.3"),
        ("p_seeds", 0.00123, "0.0012"),
        ("images", 12000, "12,000"),
        ("images", 50.0, "50"),
        ("device_seconds", 1234.5, "1,234.50"),
        ("usd_billed", None, "–"),
        ("printed_usd_per_image", 2.54e-4, "$2.54e-04"),
        ("cler", float("nan"), "–"),
        ("status", "done", "done"),
    ],
)
def test_a_value_is_shown_in_the_unit_of_its_column(column: str, value: object, text: str) -> None:
    assert format_value(column, value) == text


def test_a_mean_of_any_number_is_shown_with_its_spread() -> None:
    assert format_value("fid", 1.234, {"fid": 1.234, "fid_sd": 0.1}) == "1.23 ± 0.10"
    assert format_value("fid", 1.234, {"fid": 1.234, "fid_sd": None}) == "1.23"


def test_the_best_of_alternatives_follows_the_direction_of_the_metric() -> None:
    rows = [
        {"dataset": "d", "method": "none", "cler": 0.5, "fid": 9.0, "images": 3},
        {"dataset": "d", "method": "zero", "cler": 0.6, "fid": 8.0, "images": 4},
        {"dataset": "e", "method": "none", "cler": 0.1, "fid": 2.0, "images": 5},
    ]
    assert best_cells(rows) == {(1, "cler"), (1, "fid")}
    assert best_cells([row | {"fid": 1.0} for row in rows]) == {(1, "cler")}  # equals have no best
    assert best_cells([row | {"seed": 0} for row in rows]) == set()
