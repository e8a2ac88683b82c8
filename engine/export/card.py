"""The data card: `README.md` with the YAML that the Hugging Face Hub reads, and plain prose for people.

Keys of the YAML: huggingface.co/docs/hub/datasets-cards. A key that is malformed is ignored by readers without an error, so the
tests read the card back with `datasets`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from engine import __version__
from engine.export.contents import Contents
from engine.export.licences import UNKNOWN, Use, hub_licence, known_licences
from engine.export.rows import Written
from engine.export.safety import UNCHECKED

SIZES = (1_000, 10_000, 100_000, 1_000_000, 10_000_000, 100_000_000, 1_000_000_000)
NAMES = ("1K", "10K", "100K", "1M", "10M", "100M", "1B")
PATTERNS = {"parquet": "data/{split}-*", "webdataset": "{split}/*.tar", "folder": "{split}/**"}
LOADING = {
    "parquet": 'datasets.load_dataset("PATH")',
    "webdataset": 'datasets.load_dataset("PATH")  # or webdataset.WebDataset on the .tar files',
    "folder": 'datasets.load_dataset("PATH")  # or torchvision.datasets.ImageFolder("PATH/train")',
}

SEVERAL = LOADING | {"folder": 'datasets.load_dataset("PATH")'}
"""The same where images have several labels."""


@dataclass(frozen=True)
class CardFacts:
    """All that the card says."""

    title: str
    format: str
    where: str
    """The condition that the export was made with; empty for all images."""
    num_left_out: int
    num_errors: int
    contents: Contents
    labels: Sequence[str]
    written: Sequence[Written]
    licences: Sequence[Use]
    put_aside: Sequence[str]
    """Reasons against the mix that were put aside with --allow-licence."""
    marks: str
    """One sentence on the marks."""
    features: Sequence[dict[str, Any]] = ()
    """Columns for `dataset_info`, where the format has them."""
    safety: Sequence[str] = (UNCHECKED,)
    """What safety checkers found, one sentence each, or that there was none."""
    audit: Sequence[str] = field(default_factory=tuple)
    """Findings, one sentence or two each."""


def write_card(facts: CardFacts) -> str:
    """Text of README.md."""
    import yaml

    block = yaml.safe_dump(metadata(facts), sort_keys=False, allow_unicode=True, width=1_000)
    return f"---\n{block}---\n\n{_prose(facts)}"


def metadata(facts: CardFacts) -> dict[str, Any]:
    """The YAML block."""
    kinds = list(facts.contents.kinds)
    licence = hub_licence(facts.licences)
    creators = ["machine-generated"] if any(kind.source != "original" for kind in kinds) else []
    creators += ["found"] if any(kind.source == "original" for kind in kinds) else []
    found: dict[str, Any] = {"pretty_name": facts.title, "license": licence}
    if licence == "other":
        found["license_name"] = "mixed"
    found |= {
        "annotations_creators": creators,
        "task_categories": ["image-classification"],
        "task_ids": [f"multi-{'label' if facts.contents.has_several else 'class'}-image-classification"],
        "size_categories": [size_category(facts.contents.num_images)],
        "tags": ["croissant", "imagefoundry", *(["synthetic"] if any(kind.generator for kind in kinds) else [])],
        "configs": [
            {
                "config_name": "default",
                "data_files": [
                    {"split": one.split, "path": PATTERNS[facts.format].format(split=one.split)}
                    for one in facts.written
                ],
            }
        ],
    }
    if facts.features:
        num_bytes = sum(one.num_bytes for one in facts.written)
        found["dataset_info"] = {
            "features": list(facts.features),
            "splits": [
                {"name": one.split, "num_bytes": one.num_bytes, "num_examples": one.num_examples}
                for one in facts.written
            ],
            "download_size": num_bytes,
            "dataset_size": num_bytes,
        }
    return found


def card_features(features: dict[str, Any]) -> list[dict[str, Any]]:
    """Features of a schema's metadata in the form that the card has them."""
    found: list[dict[str, Any]] = []
    for name, feature in features.items():
        if feature["_type"] == "Sequence":
            found.append({"name": name, "sequence": _dtype(feature["feature"])})
        else:
            found.append({"name": name, "dtype": _dtype(feature)})
    return found


def _dtype(feature: dict[str, Any]) -> Any:
    if feature["_type"] == "ClassLabel":
        return {"class_label": {"names": {str(number): one for number, one in enumerate(feature["names"])}}}
    return feature.get("dtype", "image")


def size_category(num_images: int) -> str:
    """The Hub's name for a number of rows: `n<1K`, `1K<n<10K`, …"""
    if num_images < SIZES[0]:
        return f"n<{NAMES[0]}"
    place = sum(num_images >= size for size in SIZES) - 1
    return f"{NAMES[place]}<n<{NAMES[place + 1]}" if place + 1 < len(NAMES) else f"n>{NAMES[-1]}"


def _prose(facts: CardFacts) -> str:
    kinds = facts.contents.kinds
    total = facts.contents.num_images
    made = sum(totals.images for kind, totals in kinds.items() if kind.generator)
    usd = sum(one.usd_compute for one in kinds.values()), sum(one.usd_labels for one in kinds.values())
    lines = [
        f"# {_text(facts.title)}",
        "",
        f"{total:,} labelled images of {len(facts.labels):,} classes, exported by imagefoundry {__version__}. A generator made "
        f"{made:,} of them ({made / total:.0%}). Each row has the recipe of its image (prompt, generator, revision of its weights, "
        "seed, reference), the hash of its pixels and its cost.",
        "",
        *(
            [
                "An image has any number of labels. An image that was sampled for several of them is there once for each.",
                "",
            ]
            if facts.contents.has_several
            else []
        ),
        "```python",
        f"import datasets\n\n{(SEVERAL if facts.contents.has_several else LOADING)[facts.format]}",
        "```",
        "",
        "## Contents",
        "",
        *_table(
            ("Split", "Source", "Data set", "Strategy", "Generator", "Images", "Compute USD", "Label USD"),
            [
                (
                    *(kind.split, kind.source, kind.dataset, kind.strategy, _generator(kind.generator, kind.revision)),
                    *(f"{one.images:,}", f"{one.usd_compute:.3g}", f"{one.usd_labels:,.2f}"),
                )
                for kind, one in kinds.items()
            ],
        ),
        "",
        f"Busy device time cost {usd[0]:.3g} USD, labels by people {usd[1]:,.2f} USD.",
        _left_out(facts),
        "",
        "## Marks",
        "",
        facts.marks,
        "",
        "## Safety",
        "",
        *(f"{_text(_without_heading(line))}\n" for line in facts.safety),
        "## Licences",
        "",
        *_table(("Part", "Licence", "Note"), [_licence(use) for use in facts.licences]),
        "",
        *(f"Put aside on request of whoever exported: {_text(reason)}.\n" for reason in facts.put_aside),
        *(["## Audit", "", *(f"- {_text(line)}" for line in facts.audit), ""] if facts.audit else []),
        "## Limits",
        "",
        "Labels of generated images are the classes that their prompts name, and those of retrieved images the classes that their "
        "captions were searched for: nobody looked at each image. A generator shows the classes as its own training data does, with "
        "its biases. Test images are the data set's own; do not train on them.",
        "",
    ]
    return "\n".join(lines)


def _left_out(facts: CardFacts) -> str:
    found = [f"{facts.num_errors:,} recipes that could not be made are not part of it."]
    if facts.where:
        found.append(
            f"The condition {_code(facts.where)} left out {facts.num_left_out:,} other images of the workspace."
        )
    return " ".join(found)


def _without_heading(line: str) -> str:
    """`Safety: no image …` → `No image …`."""
    rest = line.partition(": ")[2]
    return rest[:1].upper() + rest[1:]


def _licence(use: Use) -> tuple[str, str, str]:
    entry = known_licences().get(use.licence)
    note = f"{entry.why} ({entry.source}, {entry.date})" if entry else "find out before you publish"
    return str(use), use.licence or UNKNOWN, note


def _generator(name: str, revision: str) -> str:
    return f"{name} ({revision[:24]})" if name else ""


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [headings, ["---"] * len(headings), *[[_text(cell) for cell in row] for row in rows]]
    return [f"| {' | '.join(line)} |" for line in lines]


def _code(text: str) -> str:
    """Text as a code span in one line."""
    plain = " ".join(text.split())
    return f"`` {plain} ``" if "`" in plain else f"`{plain}`"


def _text(text: str) -> str:
    """Text in one line and one cell; what would be Markdown or HTML is shown as it is."""
    plain = " ".join(text.split())
    return "".join(f"\\{character}" if character in "\\|<`*[" else character for character in plain)
