"""The premise study: every world and CLIP model, then means, spreads and paired tests over them."""

from collections.abc import Iterable, Sequence
from statistics import fmean
from typing import Any

import numpy as np

from engine.catalog.worlds import world_folder
from engine.reports import Report
from engine.studies.base import run_study
from engine.studies.premise.config import PremiseConfig
from engine.studies.premise.presentation import OUTCOMES, figures, findings
from engine.studies.premise.world import PremiseWorld
from engine.studies.realrag.judge import Row
from engine.studies.realrag.tables import summary
from engine.world.classes import PAIRS
from engine.world.write import write_world

COMPARED = (
    *(("none", "zero"), ("zero", "normal"), ("normal", "random"), ("normal", "image_hard"), ("normal", "realrag")),
    *(("normal", "selective"), ("normal", "oracle"), ("image_hard", "realrag"), ("realrag", "selective")),
)
"""Methods that are compared; `normal` → `realrag` on B is the main one."""


def run_premise(config: PremiseConfig) -> Report:
    """Runs every world for every CLIP model, then the grid; finished work is skipped. The report is renewed after each.

    Raises:
        ValueError: the input is invalid or a model is missing; one sentence says how to fix it.
    """
    config.check()
    found: dict[str, list[Row]] = {}
    report = Report()
    for share in config.genus_shares:
        for world in config.worlds:
            _run_world(config, share, world, found, grid=False)
            report = build_report(config, found)
            report.write(config.report)
    for world in config.worlds if config.grid else ():
        _run_world(config, config.genus_shares[0], world, found, grid=True)
        report = build_report(config, found)
        report.write(config.report)
    return report


def _run_world(config: PremiseConfig, share: float, world: int, found: dict[str, list[Row]], *, grid: bool) -> None:
    """Runs one world and adds its rows to `found`; with `grid`, the rows of the grid alone."""
    folder = world_folder(PAIRS).with_name(f"{world_folder(PAIRS).name}-{config.shots}-{config.test_images}-{world}")
    write_world(folder, config.world(world), datasets=(PAIRS,))
    first = share == config.genus_shares[0]
    study = PremiseWorld(
        config.study(share, world, str(folder / PAIRS)), config.generator, held_out=first and config.held_out, grid=grid
    )
    for name, rows in run_study(study).tables.items():
        if (name == "settings") == grid:
            found.setdefault(name, []).extend({"genus_share": share, "world": world} | row for row in rows)


def build_report(config: PremiseConfig, found: dict[str, list[Row]]) -> Report:
    """Means and spreads over (world, seed) pairs, and paired tests.

    Args:
        config: what was asked for.
        found: the tables of the worlds that have run: `scores`, `premise`, `held_out`, `settings`.
    """
    scores = found.get("scores", [])
    tables = {
        "comparisons": comparisons(scores),
        "outcomes": over_pairs(scores, ("genus_share", "method", "classes")),
        "held_out": over_pairs(found.get("held_out", []), ("genus_share", "method", "classes")),
        "settings": over_pairs(found.get("settings", []), ("epochs", "batch_size", "temperature", "method", "classes")),
        "setting_comparisons": setting_comparisons(found.get("settings", [])),
        "premise": sorted(over_worlds(found.get("premise", [])), key=lambda row: row["genus_share"]),
        "scores": scores,
    }
    worlds = sorted({(row["genus_share"], row["world"]) for row in scores})
    return Report(
        title="RealRAG's premise put to the test: siblings that the generator and CLIP confuse",
        findings=findings(scores, tables["premise"]),
        figures=figures(tables["outcomes"]),
        tables={name: rows for name, rows in tables.items() if rows},
        notes=[
            f"{len(worlds)} of {len(config.genus_shares) * len(config.worlds)} worlds and CLIP models have run, with {len(config.seeds)} seeds each.",
            "B is the sibling of each genus that the generator was never shown, A are the others.",
            "± is over (world, seed) pairs. Seeds of one world share its images, generated training images and negatives, so the test over worlds stands beside the one over pairs. All share one generator, and one CLIP model per share.",
            "P@10 is of each class's name among the retrieval half; accuracy is the judge's, whose probe has seen neither references nor test images.",
            "lookup asks a probe on the heads' own labelled training images for the class, and reads no text.",
        ],
    )


def over_worlds(rows: Iterable[Row]) -> list[Row]:
    """Means over worlds, with their number."""
    found = summary([{k: v for k, v in row.items() if k != "world"} for row in rows], ("genus_share",))
    return [{("worlds" if name == "seeds" else name): value for name, value in row.items()} for row in found]


def over_pairs(rows: Iterable[Row], by: Sequence[str]) -> list[Row]:
    """`summary` over (world, seed) pairs; the number of worlds stands beside that of pairs."""
    rows = list(rows)
    averaged = summary([{k: v for k, v in row.items() if k != "world"} for row in rows], by)
    for row in averaged:
        worlds = {one["world"] for one in rows if all(one[name] == row[name] for name in by)}
        row["pairs"] = row.pop("seeds")
        row["worlds"] = len(worlds)
        row.pop("genus_share_sd", None)
    return averaged


def setting_comparisons(rows: Sequence[Row]) -> list[Row]:
    """`comparisons` with `normal` for each setting of the grid; `normal` has no reflective term, so it is the same with and without temperature."""
    names = ("epochs", "batch_size", "temperature")
    found: list[Row] = []
    for setting in dict.fromkeys(tuple(row[name] for name in names) for row in rows):
        own = [row for row in rows if tuple(row[name] for name in names) == setting and row["method"] != "normal"]
        own += [row for row in rows if (row["epochs"], row["batch_size"], row["method"]) == (*setting[:2], "normal")]
        at = dict(zip(names, setting, strict=True))
        found += [at | row for row in comparisons(own) if row["from"] == "normal"]
    return found


def comparisons(scores: Sequence[Row]) -> list[Row]:
    """Differences of two methods for each kind of class: mean, and p of t-tests over (world, seed) pairs and over world means."""
    from scipy import stats

    def p_value(values: np.ndarray) -> float | None:
        if len(values) < 2 or np.ptp(values) < 1e-12:
            return None
        return float(stats.ttest_1samp(values, 0.0).pvalue)

    values: dict[tuple[Any, ...], dict[tuple[int, int], float]] = {}
    for row in scores:
        for outcome in OUTCOMES:
            if row.get(outcome) is not None:
                key = row["genus_share"], row["classes"], outcome, row["method"]
                values.setdefault(key, {})[row["world"], row["seed"]] = row[outcome]
    found: list[Row] = []
    for share, classes, outcome in dict.fromkeys(key[:3] for key in values):
        for first, second in COMPARED:
            before, after = (values.get((share, classes, outcome, name), {}) for name in (first, second))
            pairs = sorted(before.keys() & after.keys())
            if not pairs:
                continue
            gains = {pair: after[pair] - before[pair] for pair in pairs}
            means = [fmean(g for (world, _), g in gains.items() if world == w) for w in sorted({w for w, _ in pairs})]
            found.append(
                {
                    "genus_share": share,
                    "classes": classes,
                    "outcome": outcome,
                    "from": first,
                    "to": second,
                    "difference": fmean(gains.values()),
                    "pairs": len(pairs),
                    "p_pairs": p_value(np.array(list(gains.values()))),
                    "worlds": len(means),
                    "p_worlds": p_value(np.array(means)),
                }
            )
    return found
