import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from engine.reports import figures
from engine.reports.figures import bar_figure, scatter_figure, tradeoff_figures


def rows() -> list[dict[str, Any]]:
    return [
        {
            "group": group,
            "dataset": dataset,
            "source": source,
            "strategy": "st",
            "shots": shots,
            "seed": seed,
            "zero_shot": 0.3,
            "linear_probe": 0.5,
            "usd_busy": usd,
        }
        for group in ("common", "rare")
        for dataset in ("a", "b")
        for source, usd in (("generative", 0.011), ("retrieval", 0.0022), ("original", 7.0))
        for shots in (1, 20)
        for seed in (0, 1)
    ]


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMAGEFOUNDRY_CACHE", str(tmp_path))


def all_figures(changed: dict[str, Any] | None = None) -> list[str]:
    """One figure of each kind; `changed` are columns of the last row."""
    these = rows()
    these[-1] |= changed or {}
    bars = {str(number): 100 * row["linear_probe"] for number, row in enumerate(these)}
    return [
        *tradeoff_figures(these).values(),
        scatter_figure(these, "zero_shot", "linear_probe"),
        bar_figure(bars, spread=bars, colours=dict.fromkeys(bars, "rare"), title="bars"),
    ]


def test_a_figure_that_was_plotted_once_is_read_from_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    first = all_figures()
    monkeypatch.setattr(figures, "axes_of", lambda *_, **__: pytest.fail("a figure was plotted again"))
    assert all_figures() == first


def test_another_value_title_or_order_of_colours_is_plotted_anew() -> None:
    first = all_figures()
    assert all_figures({"linear_probe": 0.9})[1:] != first[1:]
    assert all_figures({"usd_busy": 99.0})[1] != first[1]
    assert all_figures({"zero_shot": 0.9})[2] != first[2]
    one, other = {"a": "common", "b": "rare"}, {"b": "rare", "a": "common"}
    assert bar_figure({"a": 1.0, "b": 2.0}, colours=one) != bar_figure({"a": 1.0, "b": 2.0}, colours=other)
    assert bar_figure({"a": 1.0}, title="one") != bar_figure({"a": 1.0}, title="other")


def test_each_group_is_a_panel_with_its_sources_dollars_and_zero_shot() -> None:
    figures = tradeoff_figures(rows())
    assert list(figures) == ["common", "rare"]
    for svg in figures.values():
        # busy dollars of both data sets together, averaged over seeds
        assert all(text in svg for text in ("$0.022", "$0.0044", "$14.00", "zero-shot", "generative"))
        assert all(f"var(--{source})" in svg for source in ("generative", "retrieval", "original"))


def test_figures_follow_the_pages_colours_and_name_no_site() -> None:
    (svg, _) = tradeoff_figures(rows()).values()
    assert "currentColor" in svg
    assert "#010203" not in svg
    assert "purl.org" not in svg
    assert svg.startswith("<svg")


def test_the_same_rows_give_the_same_figure_and_panels_share_no_ids(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = tradeoff_figures(rows())
    monkeypatch.setenv("IMAGEFOUNDRY_CACHE", str(tmp_path / "another"))  # so that they are plotted again
    second = tradeoff_figures(rows())
    assert first == second
    common, rare = (set(re.findall(r"url\(#(\w+)\)", svg)) for svg in first.values())
    assert common
    assert not common & rare


def test_rows_without_a_score_are_not_plotted() -> None:
    assert tradeoff_figures([row | {"linear_probe": None} for row in rows()]) == {}
    assert tradeoff_figures([]) == {}


def test_a_scatter_shows_shares_in_percent_and_colours_by_group() -> None:
    points = [
        {"group": group, "source": "generative", "cler": share, "linear_probe": share}
        for group, share in (("common", 0.5), ("rare", 0.25))
    ]
    svg = scatter_figure([*points, {"group": "rare", "cler": None}], "cler", "linear_probe", note="r = 1.00")
    assert all(text in svg for text in ("CLER (%)", "Linear probe (%)", "r = 1.00", "common", "rare", ">50"))
    assert scatter_figure([{"cler": None}], "cler", "linear_probe") == ""


def test_bars_stand_in_their_order_with_their_spread() -> None:
    bars = {"first": 3.0, "second <set>": -1.0}
    svg = bar_figure(bars, spread={"first": 0.5}, colours={"first": "common", "second <set>": "rare"}, label="points")
    assert svg.index(">first<") < svg.index(">second &lt;set&gt;<")
    assert all(text in svg for text in ("points", "common", "rare"))
    fills = Counter(re.findall(r"fill: (#\w{6})", svg))
    assert list(fills.values()) == [2, 2]  # each bar and its place in the legend
    assert bar_figure({"slow": 10.0, "fast": 0.1}, log=True).startswith("<svg")
    assert bar_figure({}) == ""
