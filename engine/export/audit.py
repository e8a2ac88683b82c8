"""`imagefoundry audit`: what a reviewer asks of a data set first, from one pass over the rows and a sample of the pixels."""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import tyro

from engine.export.contents import Contents, count_contents
from engine.export.leakage import CopyReport, audit_copies
from engine.export.safety import THRESHOLD, SafetyCount, count_safety, safety_lines
from engine.store import Workspace
from engine.store.snapshot import Snapshot
from engine.store.vectors import to_matrix

VENDI_IMAGES = 10_000
"""Images whose embeddings the Vendi score is of, at most: its cost grows with them, its value hardly."""


@dataclass(frozen=True)
class AuditConfig:
    """The images to audit."""

    workspace: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="WORKSPACE")]
    """Folder or s3://bucket/prefix of the workspace."""
    where: str = ""
    """SQL condition on the images; empty for all. Leakage is checked against all test images of the workspace."""
    images: int = 2_000
    """Images that the slow checks look at, sampled at random; 0 for all."""
    seed: int = 0
    """Seed of the sample."""
    safety_threshold: float = THRESHOLD
    """Score of a safety checker from which an image is flagged, where `imagefoundry check-safety` has run."""
    json: bool = False
    """Print JSON instead of sentences."""


@dataclass
class Audit:
    """Findings. A check that has nothing to look at is None, and says so in `lines`."""

    num_images: int
    splits: dict[str, int]
    balance: dict[str, dict[str, float]]
    """Split → classes, fewest, median and most images per class, classes without an image, evenness (1: all classes alike)."""
    equal_pixels: dict[str, int]
    """Images whose pixels equal another's: `within_train`, and `train_in_test`. Over all rows."""
    copies: CopyReport | None
    """Leakage and near-duplicates; None without pixels to compare."""
    vendi: dict[str, Any] | None
    """`score`, `images` and `column`, the embeddings that it is of."""
    num_errors: int
    usd: dict[str, float | None]
    """`compute`, `labels`, `billed` (None where the bill of a run is not known)."""
    ratings: list[dict[str, Any]] = field(default_factory=list)
    """One row per human study and method: mean and its 95 % interval over raters."""
    safety: list[SafetyCount] = field(default_factory=list)
    """One row per safety checker that has scored images."""

    def as_dict(self) -> dict[str, Any]:
        """All findings as plain values."""
        return asdict(self)

    def lines(self) -> list[str]:
        """One sentence or two per check."""
        return [
            *(_balance_line(split, found) for split, found in self.balance.items()),
            *_equal_lines(self.equal_pixels),
            *(
                self.copies.lines()
                if self.copies
                else ["Leakage was not checked: there are no training images with test images."]
            ),
            _vendi_line(self.vendi),
            *safety_lines(self.safety),
            f"Errors: {self.num_errors:,} recipes of the workspace could not be made, "
            f"{self.num_errors / max(self.num_errors + self.num_images, 1):.2%} of recipes.",
            _usd_line(self.usd, self.num_images),
            *(_rating_line(row) for row in self.ratings),
        ]


def audit(config: AuditConfig) -> Audit:
    """Audits a workspace. Raises ValueError if there is none, it has no images that fit, or `where` is no condition."""
    if config.images < 0:
        raise ValueError(f"images is {config.images}; give 0 for all, or more")
    workspace = Workspace.open(config.workspace, create=False)
    snapshot = Snapshot(workspace, config.where or None)
    if not snapshot.num_rows:
        raise ValueError(f"workspace {workspace.uri} has no images{' for which --where holds' if config.where else ''}")
    return audit_snapshot(workspace, snapshot, count_contents(snapshot), config)


def audit_snapshot(workspace: Workspace, snapshot: Snapshot, contents: Contents, config: AuditConfig) -> Audit:
    """Audits the images of a snapshot."""
    safety = count_safety(snapshot, config.safety_threshold)
    return Audit(
        contents.num_images,
        contents.splits,
        _balance(contents),
        _equal_pixels(snapshot),
        audit_copies(snapshot, config.images, config.seed),
        _vendi(workspace, snapshot, config.seed),
        workspace.errors().num_rows,
        _usd(workspace, snapshot, contents),
        rating_rows(workspace),
        safety,
    )


def _balance(contents: Contents) -> dict[str, dict[str, float]]:
    found = {}
    for split in contents.splits:
        counts = np.array([counter[split] for counter in contents.classes.values()])
        there = counts[counts > 0]
        shares = there / max(counts.sum(), 1)
        evenness = float(-(shares * np.log(shares)).sum() / np.log(len(counts))) if len(counts) > 1 else 1.0
        found[split] = {
            "classes": len(there),
            "fewest": int(there.min(initial=counts.max(initial=0))),
            "median": float(np.median(there)) if len(there) else 0.0,
            "most": int(counts.max(initial=0)),
            "without_images": int((counts == 0).sum()),
            "evenness": round(evenness, 4),
        }
    return found


def _equal_pixels(snapshot: Snapshot) -> dict[str, int]:
    train = _hashes(snapshot.scan(["content_hash"], "split = 'train'"))
    test = _hashes(snapshot.scan_all(["content_hash"], "split = 'test'"))
    return {
        "within_train": len(train) - len(train.unique()),
        "train_in_test": int(pc.sum(pc.is_in(train, value_set=test.unique())).as_py() or 0),
    }


def _hashes(batches: Iterable[pa.RecordBatch]) -> pa.ChunkedArray:
    return pa.chunked_array([batch.column("content_hash") for batch in batches], pa.string())


def _vendi(workspace: Workspace, snapshot: Snapshot, seed: int) -> dict[str, Any] | None:
    from engine.evaluation import vendi_score

    condition = "split = 'train'"
    for column in workspace.embedding_columns():
        there = f"{condition} AND {column} IS NOT NULL"
        num_rows = snapshot.count(there) if column in snapshot.schema.names else 0
        if num_rows:
            chosen = np.sort(np.random.default_rng(seed).permutation(num_rows)[:VENDI_IMAGES])
            rows = np.concatenate(list(_rows_at(snapshot.scan([column], there), chosen)))
            return {"score": vendi_score(rows), "images": len(chosen), "column": column}
    return None


def _rows_at(batches: Iterable[pa.RecordBatch], places: np.ndarray) -> Iterator[np.ndarray]:
    """Vectors `[N, D]` float32 at these places, ascending, of all rows; a batch is in memory at a time."""
    start = 0
    for batch in batches:
        first, last = np.searchsorted(places, (start, start + batch.num_rows))
        if last > first:
            yield to_matrix(batch.column(0).take(pa.array(places[first:last] - start))).astype(np.float32)
        start += batch.num_rows


def _usd(workspace: Workspace, snapshot: Snapshot, contents: Contents) -> dict[str, float | None]:
    import polars as pl

    from engine.costs.ledger import COST_COLUMNS, attribute_billed

    kinds = contents.kinds.values()
    batches = list(snapshot.scan_all(["id", *COST_COLUMNS]))
    if not batches:
        return {"compute": 0.0, "labels": 0.0, "billed": 0.0}
    table = pa.Table.from_batches(batches)
    billed = attribute_billed(table.select(list(COST_COLUMNS)), workspace.runs())
    ids = pl.concat([pl.Series(batch.column("id")) for batch in snapshot.scan(["id"])])
    # attribute_billed keeps the order of the rows
    own = billed.with_columns(pl.Series("id", table.column("id"))).filter(pl.col("id").is_in(ids.implode()))[
        "usd_billed"
    ]
    return {
        "compute": sum(one.usd_compute for one in kinds),
        "labels": sum(one.usd_labels for one in kinds),
        "billed": None if own.null_count() else float(own.sum()),
    }


def rating_rows(workspace: Workspace) -> list[dict[str, Any]]:
    """One row per rated study and method: the mean with its intervals, over the newest answers in the workspace."""
    from engine.evaluation.rating import ANSWER_SCHEMA, RatingStudy, analyse

    studies, ratings = workspace.read("studies"), workspace.read("ratings")
    found = []
    for study_id in sorted(set(studies.column("study_id").to_pylist())):
        items = [row for row in studies.to_pylist() if row["study_id"] == study_id]
        newest = {}
        for row in sorted(ratings.to_pylist(), key=lambda row: row["answered_at"]):
            if row["study_id"] == study_id:
                newest[row["rater"], row["item"]] = {name: row[name] for name in ANSWER_SCHEMA.names}
        if not newest:
            continue
        import pyarrow as pa

        table = pa.Table.from_pylist(items)
        study = RatingStudy(
            items[0]["task"],
            table.select(["item", "set", "prompt", "image_id"]),
            table.select(["item", "method", "class_name"]),
        )
        answers = pa.Table.from_pylist(list(newest.values()), schema=ANSWER_SCHEMA)
        found += [{"study_id": study_id, "task": study.task} | row for row in analyse(study, answers).to_pylist()]
    return found


def _balance_line(split: str, found: dict[str, float]) -> str:
    if not found["classes"]:
        return f"Balance ({split}): no image has a label."
    empty = f", {found['without_images']:,} classes have none" if found["without_images"] else ""
    return (
        f"Balance ({split}): {found['fewest']:,} to {found['most']:,} images per class, median {found['median']:,.0f}, of "
        f"{found['classes']:,} classes{empty}; evenness {found['evenness']:.3f}."
    )


def _equal_lines(found: dict[str, int]) -> list[str]:
    return [
        f"Equal pixels: {found['train_in_test']:,} training images are test images, and {found['within_train']:,} repeat another "
        "training image (all rows compared)."
    ]


def _vendi_line(found: dict[str, Any] | None) -> str:
    if found is None:
        return "Diversity was not measured: the training images have no embeddings (imagefoundry embed adds them)."
    return f"Diversity: Vendi score {found['score']:.1f} of {found['images']:,} training images ({found['column']})."


def _usd_line(usd: dict[str, float | None], num_images: int) -> str:
    busy = (usd["compute"] or 0.0) + (usd["labels"] or 0.0)
    billed = "billed dollars are not known" if usd["billed"] is None else f"{usd['billed']:.4g} USD billed"
    return f"Cost: {busy:.4g} USD busy, labels included ({busy / max(num_images, 1):.3g} per image), {billed}."


def _rating_line(row: dict[str, Any]) -> str:
    what = "match with the text, 1 to 7" if row["task"] == "matching" else "share judged a photograph"
    interval = "no interval with a single rater"
    if row["raters"] > 1:
        interval = f"95 % interval {row['bootstrap_low']:.2f} to {row['bootstrap_high']:.2f}"
    return f"Human ratings of {row['method']} ({what}): {row['mean']:.2f}, {interval}, {row['raters']} raters, {row['answers']:,} answers."
