from pathlib import Path

import pytest

from engine.reports.comparisons import by_series, dot_figure, line_figure


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMAGEFOUNDRY_CACHE", str(tmp_path))


def test_points_are_means_with_their_spread_over_seeds() -> None:
    rows = [
        {"dataset": name, "method": "one", "seed": seed, "accuracy": value}
        for name, values in {"a": (0.4, 0.6), "b": (0.5, None)}.items()
        for seed, value in enumerate(values)
    ]
    found = by_series(rows, "dataset", "method", "accuracy", 100.0)
    assert found["a"]["one"] == pytest.approx((50.0, 14.142), abs=1e-3)
    assert found["b"]["one"] == (50.0, None)


def test_a_comparison_says_its_numbers_in_words() -> None:
    svg = dot_figure({"cars <&>": {"old": (50.0, 1.5), "new": (60.0, None)}}, title="Accuracy", label="%")
    assert svg.startswith('<svg role="img" aria-label="Accuracy, %. cars &lt;&amp;&gt;: old 50.0 ± 1.5, new 60.0.')
    assert all(text in svg for text in (">old<", ">new<", "cars &lt;&amp;&gt;"))
    assert dot_figure({}) == dot_figure({"empty": {}}) == ""


def test_lines_say_where_they_begin_and_end() -> None:
    points = [(10.0, 0.25, 0.01), (1.0, 0.5, None), (5.0, 0.75, 0.0)]
    svg = line_figure({"loss": points}, x="epoch", y="loss")
    assert "loss from 0.500 at 1 to 0.250 at 10, range 0.250 to 0.750" in svg
    assert line_figure({"a": [(0.001, 1.0, None)], "b": [(10.0, 2.0, None)]}, log=True).count("<svg") == 1
    assert line_figure({"nothing": []}) == ""
