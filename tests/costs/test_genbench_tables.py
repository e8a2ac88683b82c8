import pytest

from engine.costs import TABLE_5_NOTE, genbench_figure_3, genbench_table_1, genbench_table_5


def test_table_5_multiplies_out_beside_what_is_printed() -> None:
    generative, retrieval, original = genbench_table_5()
    assert (generative["usd_per_hour"], generative["hours_per_1000_images"]) == (1.47, 1.74)
    assert generative["usd_per_image"] == pytest.approx(2.5578e-3)
    assert generative["printed_usd_per_image"] == 2.54e-4
    assert (retrieval["usd_per_hour"], retrieval["hours_per_1000_images"]) == (0.21, 0.60)
    assert retrieval["usd_per_image"] == pytest.approx(1.26e-4)
    assert retrieval["printed_usd_per_image"] == 3.93e-5
    assert original["usd_per_image"] == original["printed_usd_per_image"] == 1.2e-2
    assert original["usd_per_hour"] is None


def test_the_ratio_says_how_far_the_paper_is_off() -> None:
    assert [round(row["ratio"], 2) for row in genbench_table_5()] == [10.07, 3.21, 1.0]


def test_table_1_has_the_costs_of_table_5() -> None:
    for short, full in zip(genbench_table_1(), genbench_table_5(), strict=True):
        assert short.items() <= full.items()
        assert "usd_per_hour" not in short


def test_the_note_names_the_numbers() -> None:
    assert all(number in TABLE_5_NOTE for number in ("2.56e-3", "2.54e-4", "1.26e-4", "3.93e-5", "208", "2,095"))


def test_figure_3_is_recomputed_with_the_hours_and_price_of_table_5() -> None:
    generative, original = genbench_figure_3()
    assert generative["printed_usd"] == round(500 * 1638 * 2.54e-4) == 208
    assert generative["usd"] == pytest.approx(2094.8, abs=0.1)
    assert generative["ratio"] == pytest.approx(10.07, abs=0.01)
    assert (original["source"], round(original["usd"])) == ("original", 9828)
