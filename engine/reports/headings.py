"""Headings of columns and tables, and names of values, as people use them; the data behind a page keep their own."""

import re
from typing import Any

from engine.evaluation.metrics import find_metric
from engine.sources.kinds import find_source

_HEADINGS = {
    "tradeoff": "Accuracy and cost",
    "realrag": "RealRAG: scores of the images by method",
    **{f"realrag_table_{number}": f"RealRAG Table {number}" for number in range(1, 6)},
    "realrag_by_seed": "RealRAG: scores by method and seed",
    "held_out": "RealRAG: retrieval of classes that no head was trained on",
    "by_knowledge": "RealRAG: classes that the generator draws alone, and the others",
    "retrieval": "Retrieval: precision and recall by method",
    "judge": "Judge: accuracy on real images",
    "genbench_figure_3": "Figure 3: dollars of 500 shots of the common concepts",
    "table_2": "Table 2: CLER by prompt strategy",
    "table_3": "Table 3: CLER by kind of external knowledge (% ± over seeds)",
    "injection": "Scores of all images with and without external knowledge",
    "injection_by_knowledge": "Right images (judge) of classes that the generator knows by name, and of the others",
    "injection_by_class": "Right images (judge) by class",
    "figure_8": "Figure 8: tokens from shrunken originals",
    "tokens": "Learned tokens",
    "judged": "Right (judge)",
    "usd_fit": "USD of fits",
    "usd_per_token": "USD per token",
    "choice": "Strategies chosen class by class",
    "choice_by_class": "Strategy chosen for each class",
    "choices": "Strategies chosen class by class, for each seed",
    "points": "All points of the metric study",
    "figure_4": "Figure 4: correlation of each metric with the linear probe",
    "figure_4_at_equal_shots": "Figure 4 at equal shots",
    "figure_4_without_small_sets": "Figure 4 without data sets of two categories, at the most shots",
    "figure_2": "Figure 2: the best strategy of each data set",
    "figure_5": "Figure 5: processor seconds of each metric",
    "figure_6": "Figure 6: correlation of text similarity with the change of CLER",
    "figure_6_data_sets": "Figure 6: data sets",
    "figure_6_classes": "Figure 6: classes",
    "figure_7": "Figure 7: heads by epoch",
    "figure_9": "Figure 9: correlation of CLER with the linear probe, by encoder",
    "figure_9_points": "Figure 9: points",
    "figure_10": "Figure 10: correlation of CLER with the linear probe, by source",
    "section_12_2": "Section 12.2: correlation of image retrieval with CLER",
    "budget": "Ways of spending the budget, by data set",
    "budget_mean": "Ways of spending the budget, mean over data sets",
    "budget_by_seed": "Ways of spending the budget, by seed",
    "allocation": "Sources chosen by the plan",
    "allocation_by_class": "Source and shots chosen for each class",
    "pearson_low": "Pearson, low",
    "pearson_high": "Pearson, high",
    "spearman_low": "Spearman, low",
    "spearman_high": "Spearman, high",
    "probe_ratio": "Probe ÷ metric",
    "gpu_probe_ratio": "Probe ÷ metric on the GPU",
    "gpu_seconds": "GPU seconds",
    "t_low": "95 % low (t)",
    "t_high": "95 % high (t)",
    "bootstrap_low": "95 % low (bootstrap)",
    "bootstrap_high": "95 % high (bootstrap)",
    "improvement": "Figure 2: gain of generated images over zero-shot",
    "paired_tests": "Differences between two methods, seed by seed",
    "training_curves": "Training curves of the heads",
    "heads": "Trained heads",
    "head_options": "Other ways to train the head",
    "files": "Files of the data sets",
    "images": "Images",
    "images_by_kind": "Images by source, data set, strategy and generator",
    "images_by_class": "Images by class and source",
    "embeddings": "Embeddings",
    "kept_reports": "Results kept in this workspace",
    "requests": "Answers of the server",
    "setting_comparisons": "Differences from normal training at other epochs, batches and temperatures",
    "composition": "Object and context by method",
    "composition_by_context": "Object and context by context",
    "composition_judge": "Judge of object and context on real images",
    "reference_correlation": "Correlation with the reference",
    "p_seeds": "p over seeds",
    "p_pairs": "p over (world, seed) pairs",
    "p_worlds": "p over worlds",
    "genus_share": "Captions that name the genus alone",
    "generated_right": "Images of B that show B",
    "generated_sibling": "Images of B that show a sibling",
    "mined_sibling": "Negatives of B that show a sibling",
    "clip_right": "B known to CLIP",
    "clip_sibling": "B taken for a sibling by CLIP",
    "p_classes": "p over classes",
    "run_id": "Run",
    "example_id": "Example",
    "started_at": "Started",
    "created_at": "When",
    "wall_seconds": "Wall seconds",
    "busy_seconds": "Busy seconds",
    "class_name": "Class",
    "class_index": "Class number",
    "num_classes": "Classes",
    "probe_images": "Images the probe learnt from",
    "mts": "Mean text similarity",
    "n": "Points",
    "ledger": "Cost by stage",
    "rating": "Human ratings by method",
    "dataset": "Data set",
    "usd_busy": "Busy USD",
    "usd_billed": "Billed USD",
    "usd_compute": "Compute USD",
    "usd_labels": "Label USD",
    "usd_per_image": "USD per image",
    "usd_per_row": "USD per row",
    "usd_billed_per_image": "Billed USD per image",
    "usd_per_hour": "USD per hour",
    "printed_usd_per_image": "Printed USD per image",
    "hours_per_1000_images": "Hours per 1,000 images",
    "device_seconds": "Device seconds",
}


def heading(name: str) -> str:
    """Name of a column or table for people."""
    *of, last = name.rsplit(" ", 1)
    metric = find_metric(last)
    text = metric.heading if metric else _HEADINGS.get(last)
    if of:  # `mini-common clip_i`: the score of one data set
        return f"{of[0]} {_within_a_phrase(text) if text else last.replace('_', ' ')}"
    return text or (name if "-" in name else name.replace("_", " ").capitalize())  # a data set keeps its name


def _within_a_phrase(text: str) -> str:
    """Without the capital of a sentence's start, which names such as `CLIP-I` keep."""
    return text[0].lower() + text[1:] if text[1:2].islower() else text


METHODS = {
    "none": "no reference",
    "zero": "plain CLIP",
    "normal": "normal training",
    "realrag": "RealRAG",
    "random": "random negatives",
    "image_hard": "hard image negatives",
    "oracle": "oracle negatives",
    "selective": "selective negatives",
    "lookup": "lookup of labels",
}
"""Method of a RealRAG study → its name."""
_OF_METRICS = ("metric", "score", "against")
_NAMED = (*_OF_METRICS, "method", "from", "to", "strategy", "chosen", "source", "generator", "pipeline", "type")
"""Columns whose values are names of the code's own."""


def name_of(column: str, value: str) -> str:
    """The value of a column as people write it: `realrag` → RealRAG, `clip_i` → CLIP-I, `StableDiffusionPipeline` → Stable Diffusion.

    Values of columns that users name (data sets, groups, classes) stay as they are.
    """
    if column not in _NAMED:
        return value
    if column in ("method", "from", "to"):
        return method_name(value)
    if column in _OF_METRICS:
        return "Image retrieval" if value == "retrieval" else heading(value)  # what both metrics of it are timed as
    if column in ("generator", "pipeline", "type"):
        return _pipeline_name(value)
    return source_name(value) if find_source(value) else strategy_words(value)


def method_name(method: str) -> str:
    """`Δ realrag - none` → Δ RealRAG - no reference; unknown names stay as they are."""
    if method.startswith("Δ "):
        return "Δ " + " - ".join(METHODS.get(part, part) for part in method.removeprefix("Δ ").split(" - "))
    name, at, epoch = method.partition("@")
    return METHODS.get(name, name) + (f", epoch {epoch}" if at else "")


def source_name(source: Any) -> str:
    """Label of a source of `engine.sources.kinds`; other names stay as they are."""
    kind = find_source(source)
    return kind.label if kind else str(source)


def strategy_words(strategy: str) -> str:
    """`defined_template+negative_prompts` → defined template + negative prompts."""
    return strategy.replace("+", " + ").replace("_", " ")


def _pipeline_name(name: str) -> str:
    """`StableDiffusionXLPipeline` → Stable Diffusion XL."""
    if not re.fullmatch(r"[A-Z]\w+Pipeline", name):
        return name
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name.removesuffix("Pipeline"))
