import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from engine.reports import ContactSheet, Report
from engine.reports.notebook import figure_pictures, sheet_picture
from engine.reports.page import shown_columns

SECTIONS = ("summary", "figures", "sheets", "tradeoff", "costs", "genbench", "errors", "runs")
EVIL = "<script>alert('x')</script> & $a$ [bold]b[/bold]"


def tradeoff_row(**change: Any) -> dict[str, Any]:
    row = {
        "dataset": "cars",
        "group": "fine-grained",
        "source": "generative",
        "strategy": "st",
        "shots": 5,
        "seed": 0,
        "zero_shot": 0.5,
        "cler": 0.55,
        "cler_ensemble": 0.6,
        "linear_probe": 0.625,
        "images": 50,
        "usd_busy": 0.5,
        "usd_billed": 1.0,
        "usd_per_image": 0.01,
    }
    return row | change


def png(colour: tuple[int, int, int] = (200, 30, 30)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (4, 4), colour).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def report() -> Report:
    costs = {"source": "generative", "dataset": "cars", "generator": "sd21", "images": 50, "usd_busy": 0.5}
    return Report(
        title="A study",
        tables={
            "tradeoff": [
                tradeoff_row(source=source, shots=shots, seed=seed, linear_probe=0.5 + 0.01 * seed)
                for source in ("generative", "retrieval", "original")
                for shots in (1, 5)
                for seed in (0, 1)
            ],
            "costs": [costs | {"usd_billed": 1.25}, costs | {"usd_billed": 1.25, "dataset": "all"}],
            "errors": [{"stage": "generate", "reason": "NaN", "count": 3, "example_id": "ab12"}],
            "runs": [{"run_id": "r1", "wall_seconds": 2.5, "status": "done"}],
        },
        sheets=[
            ContactSheet(title="Cars", group="fine-grained", source="generative", images=[png()], captions=["a car"])
        ],
        notes=["Measured on one core."],
    )


def test_the_json_has_exactly_the_tables_and_their_rows(report: Report, tmp_path: Path) -> None:
    report.write(tmp_path)
    data = json.loads((tmp_path / "report.json").read_text())
    assert set(data) == {"tables", "title", "findings", "notes"}
    assert data["tables"] == report.tables
    assert list(data["tables"]["tradeoff"][0]) == list(tradeoff_row())


def test_the_json_is_strict_and_takes_numpy_numbers(tmp_path: Path) -> None:
    row = {"a": float("nan"), "b": np.float32(0.5), "c": np.int64(3), "d": np.float64("inf"), "e": None, "f": True}
    Report(tables={"t": [row]}).write(tmp_path)
    text = (tmp_path / "report.json").read_text()
    assert json.loads(text)["tables"]["t"] == [{"a": None, "b": 0.5, "c": 3, "d": None, "e": None, "f": True}]
    assert "NaN" not in text


def test_the_page_has_every_section_even_when_there_is_nothing_to_say(report: Report, tmp_path: Path) -> None:
    for name, each in {"full": report, "empty": Report()}.items():
        page = each.write(tmp_path / name).read_text()
        for section in SECTIONS:
            assert f'<section id="{section}">' in page
            assert f'href="#{section}"' in page


def test_the_finding_comes_first_then_figures_then_images_then_tables(report: Report, tmp_path: Path) -> None:
    report.tables["files"] = [{"dataset": "cars", "split": "train", "verdict": "used", "count": 50}]
    report.figures["GenBench Figure 2"] = "<svg></svg>"
    report.findings = ["Four is more than three."]
    page = report.write(tmp_path).read_text()
    assert page.index("Four is more than three.") < page.index("<b>50</b><span>images</span>")
    order = ("summary", "figures", "sheets", "tradeoff", "others", "costs")
    assert re.findall(r'<section id="([^"]*)">', page)[: len(order)] == list(order)
    assert re.findall(r'<a href="#([^"]*)">', page)[: len(order)] == list(order)


def test_the_page_shows_what_the_tables_hold(report: Report, tmp_path: Path) -> None:
    page = report.write(tmp_path).read_text()
    assert "50.5 ± 0.7" in page  # 50 % and 51 %, over two seeds
    assert "ab12" in page
    assert "Measured on one core." in page
    assert page.count("<svg") == 1
    assert "$0.00256" in page  # GenBench's Table 5, recomputed
    assert "$2.54e-04" in page  # and as printed
    assert "data:image/png;base64," in page


def test_the_totals_do_not_count_subtotals_twice(report: Report, tmp_path: Path) -> None:
    page = report.write(tmp_path).read_text()
    assert "<b>50</b><span>images</span>" in page
    assert "<b>$1.25</b>" in page


def test_the_page_loads_nothing_from_anywhere(report: Report, tmp_path: Path) -> None:
    page = report.write(tmp_path).read_text()
    targets = re.findall(r"""(?:src|href|action|data|poster)\s*=\s*["']([^"']*)""", page)
    assert targets
    assert all(target.startswith(("data:", "#")) for target in targets)
    assert re.findall(r"url\(\s*['\"]?(?!#)", page) == []
    assert "@import" not in page
    assert "<link" not in page
    assert "<script" not in page
    assert "default-src 'none'" in page


def test_untrusted_text_is_escaped_everywhere(tmp_path: Path) -> None:
    evil = tradeoff_row(dataset=EVIL, group=EVIL, source=EVIL, strategy=EVIL)
    report = Report(
        title=EVIL,
        tables={
            "tradeoff": [evil, evil | {"strategy": "st"}],
            "costs": [{"source": EVIL, "dataset": EVIL, EVIL: EVIL, "images": 1}],
            "errors": [{"stage": EVIL, "reason": EVIL, "count": 1}],
            "runs": [{"run_id": EVIL, "config": EVIL}],
            EVIL: [{EVIL: EVIL}],
        },
        sheets=[ContactSheet(title=EVIL, group=EVIL, source=EVIL, images=[png(), b"junk"], captions=[EVIL, EVIL])],
        notes=[EVIL],
    )
    page = report.write(tmp_path).read_text()
    assert "<script" not in page.lower()
    assert "&lt;script&gt;" in page
    assert "not an image" in page


def test_a_file_is_replaced_at_once_and_nothing_is_left_behind(
    report: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report.write(tmp_path)
    before = (tmp_path / "report.json").read_text()
    report.title = "Another"

    def fail(*_: Any) -> None:
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr("os.replace", fail)
        with pytest.raises(OSError, match="disk full"):
            report.write(tmp_path)
    assert (tmp_path / "report.json").read_text() == before
    report.write(tmp_path)
    assert json.loads((tmp_path / "report.json").read_text())["title"] == "Another"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["index.html", "report.json"]


def test_the_terminal_shows_the_same_numbers(report: Report) -> None:
    console = Console(width=140, file=io.StringIO(), record=True)
    report.tables["errors"][0]["reason"] = "[bold]NaN[/bold]"
    report.print(console)
    text = console.export_text()
    assert "A study" in text
    assert "50 images for $0.50 busy, $1.25 billed." in text
    assert "50.5 ± 0.7" in text
    assert "[bold]NaN[/bold]" in text
    assert "Note: Measured on one core." in text


def test_an_empty_report_prints_its_title() -> None:
    console = Console(width=80, file=io.StringIO(), record=True)
    Report(title="Nothing").print(console)
    assert console.export_text().strip() == "Nothing"


def test_a_reports_own_figures_are_shown_without_the_trade_off(tmp_path: Path) -> None:
    page = Report(
        tables={"table_2": [{"strategy": "x", "d": "1.0"}]}, figures={"Figure 4": "<svg>drawn</svg>", "no": ""}
    )
    text = page.write(tmp_path).read_text()
    assert "<svg>drawn</svg><figcaption" in text
    assert "Table 2: CLER by prompt strategy" in text
    assert "GenBench Figure 3" not in text
    assert '"no"' not in text


def test_a_large_image_is_scaled_down_and_a_place_without_an_image_stays_free(tmp_path: Path) -> None:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (900, 1200, 3), np.uint8)).save(file, "PNG")
    sheet = ContactSheet(
        title="t", group="g", source="s", images=[file.getvalue(), b"", png()], captions=["large"], per_row=3
    )
    page = Report(sheets=[sheet]).write(tmp_path).read_text()
    assert len(page) < len(file.getvalue()) / 20
    assert len(re.findall(r'<img src="data:image/(?:webp|png);base64', page)) == 2
    assert '<span class="broken empty"></span>' in page


def test_a_long_table_is_cut_on_the_page_and_whole_in_the_data(tmp_path: Path) -> None:
    rows = [{"number": number, "name": f"row-{number}"} for number in range(1000)]
    page = Report(tables={"points": rows}).write(tmp_path).read_text()
    assert "The first 200 of 1,000 rows" in page
    assert "row-199" in page
    assert "row-200" not in page
    assert len(json.loads((tmp_path / "report.json").read_text())["tables"]["points"]) == 1000


def test_the_column_that_stays_in_view_tells_rows_apart() -> None:
    rows = [{"generator": "mini", "seeds": 2, "method": name, "accuracy": 0.5} for name in ("none", "realrag")]
    assert shown_columns(rows) == ["method", "accuracy", "generator", "seeds"]
    assert shown_columns(rows[:1]) == ["generator", "seeds", "method", "accuracy"]


def test_names_of_the_code_become_headings_and_names_that_people_use(tmp_path: Path) -> None:
    rows = [
        {"type": "StableDiffusionXLPipeline", "method": method, "mini-fine clip_i": 80.0, "strategy": "a_b+c_d"}
        for method in ("none", "Δ realrag - none")
    ]
    page = (
        Report(tables={"realrag_table_1": rows, "paired_tests": [{"score": "clip_i", "from": "zero"}]})
        .write(tmp_path)
        .read_text()
    )
    for text in (
        "Stable Diffusion XL",
        "no reference",
        "Δ RealRAG - no reference",
        "mini-fine CLIP-I",
        "a b + c d",
        "plain CLIP",
    ):
        assert text in page
    assert "clip_i" not in page
    assert "StableDiffusionXLPipeline" in (tmp_path / "report.json").read_text()


def test_parts_of_a_page_share_no_ids(tmp_path: Path, report: Report) -> None:
    parts = [
        Report(title=name, tables={"tradeoff": report.tables["tradeoff"]}, findings=[f"{name} is so."]) for name in "ab"
    ]
    page = Report(title="All", tables={"images": [{"images": 1}]}, parts=parts).write(tmp_path).read_text()
    ids = re.findall(r'\sid="([^"]+)"', page)
    assert page.count("<svg") == 2
    assert len(ids) == len(set(ids))
    assert set(re.findall(r"url\(#([^)]+)\)", page)) <= set(ids)
    assert page.index("a is so.") < page.index("b is so.") < page.index('<section id="others">')


def test_a_notebook_shows_figures_and_sheets_as_pictures(report: Report) -> None:
    (figure,) = figure_pictures(report, ("shots",))
    assert figure.kind == "image/svg+xml"
    assert "var(--" not in figure.data
    assert "currentColor" not in figure.data
    assert figure_pictures(report, ("no such caption",)) == []
    sheet = sheet_picture(
        ContactSheet(title="$x", group="", source="", images=[png(), b"", png()], captions=["$a"], per_row=3)
    )
    assert Image.open(io.BytesIO(sheet._repr_mimebundle_()["image/jpeg"])).width > 150
