"""`imagefoundry export`: images of a workspace as a data set that others load, streamed from the table."""

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.compute as pc

from engine.export.audit import AuditConfig, audit_snapshot
from engine.export.card import CardFacts, card_features, write_card
from engine.export.classes import folder_names, label_names
from engine.export.config import ExportConfig
from engine.export.contents import Contents, count_contents, labels_of
from engine.export.credentials import Signer, make_test_credential
from engine.export.croissant import CroissantFacts, croissant
from engine.export.folder import FolderWriter
from engine.export.licences import check_licences, hub_licence, licences_of, parse_declared
from engine.export.marks import Marker
from engine.export.parquet import Limits, ParquetWriter, features
from engine.export.place import check_output, written_whole
from engine.export.rows import Rows, Written, as_exported, columns_to_read, stage_columns
from engine.export.safety import count_safety, safety_lines
from engine.export.webdataset import WebDatasetWriter
from engine.progress import Progress
from engine.store import Workspace
from engine.store.snapshot import Snapshot

MB = 1_000_000
XMP_ALONE = "C2PA manifests were not written, since no key was given"


class Writer(Protocol):
    """A format: takes rows batch by batch, and says at the end what it wrote."""

    def add(self, rows: Rows) -> None:
        """Adds rows of one split."""
        ...

    def finish(self) -> list[Written]:
        """Closes all files."""
        ...


@dataclass(frozen=True)
class Exported:
    """The outcome of an export."""

    output: str | Path
    """A folder as a path, a prefix of S3 as its URL."""
    splits: dict[str, int]
    """Images per split."""
    num_classes: int
    num_left_out: int
    """Images of the workspace for which `where` does not hold."""
    num_errors: int
    """Recipes of the workspace that could not be made; they are never exported."""
    num_marked: int
    """Generated images, all of which have marks."""
    marks: str
    """One sentence on the marks."""
    put_aside: list[str]
    """Reasons of licences that were put aside."""
    unknown_licences: list[str]
    """Parts whose licence no source states."""
    safety: list[str]
    """One sentence per safety checker that has scored images, or that there is none."""
    audit: list[str]
    """Findings, one per line."""


@dataclass(frozen=True)
class _Naming:
    """Names of the labels, and of their folders."""

    labels: list[str]
    folders: list[str]
    """Empty for other formats, and where images have several labels."""
    several: list[str]
    """`labels` where an image has several, else empty."""

    def features(self, extra: list[pa.Field]) -> dict[str, Any]:
        return features(self.labels, extra, bool(self.several))


def export_images(config: ExportConfig) -> Exported:
    """Exports the images of a workspace.

    All of it appears at once, or nothing. Memory holds a batch of rows and a row group of each split, whatever the number of rows.

    Raises:
        ValueError: there is no workspace, no image fits, the output exists, a licence forbids the mix, a key is refused, or an
            image cannot be marked.
    """
    config.check()
    check_output(config.output)
    declared = parse_declared(config.licence_of)
    signer = _signer(config)
    workspace = Workspace.open(config.workspace, create=False)
    snapshot = Snapshot(workspace, config.where or None)
    if not snapshot.num_rows:
        raise ValueError(f"workspace {workspace.uri} has no images{' for which --where holds' if config.where else ''}")
    contents = count_contents(snapshot)
    uses = licences_of(contents, declared)
    put_aside = check_licences(uses, config.allow_licence, commercial=config.commercial)
    safety = safety_lines(count_safety(snapshot, config.safety_threshold))
    checks = AuditConfig(workspace.uri, config.where, config.audit_images, safety_threshold=config.safety_threshold)
    findings = audit_snapshot(workspace, snapshot, contents, checks).lines() if config.audit else []
    num_errors = workspace.errors().num_rows
    labels = label_names(contents.classes)
    several = labels if contents.has_several else []
    naming = _Naming(labels, folder_names(labels) if config.format == "folder" and not several else [], several)
    extra = stage_columns(snapshot.schema) if config.format == "parquet" else []
    with written_whole(config.output) as folder:
        writer = _writer(config, folder, naming, extra)
        marker = Marker(signer)
        try:
            _stream(snapshot, contents, writer, marker, extra)
        finally:
            marker.close()
        written = sorted(writer.finish(), key=lambda one: (one.split != "train", one.split))
        facts = CardFacts(
            title=config.title or str(config.output).rstrip("/").rpartition("/")[2],
            format=config.format,
            where=config.where,
            num_left_out=snapshot.num_left_out,
            num_errors=num_errors,
            contents=contents,
            labels=labels,
            written=written,
            licences=uses,
            put_aside=put_aside,
            marks=_marks(marker, signer, config),
            features=card_features(naming.features(extra)) if config.format == "parquet" else [],
            safety=safety,
            audit=[line for line in findings if line not in safety],
        )
        _describe(folder, facts, naming)
    return Exported(
        output=config.output,
        splits={one.split: one.num_examples for one in written},
        num_classes=len(labels),
        num_left_out=snapshot.num_left_out,
        num_errors=num_errors,
        num_marked=marker.num_marked,
        marks=facts.marks,
        put_aside=put_aside,
        unknown_licences=[str(use) for use in uses if not use.licence],
        safety=safety,
        audit=findings,
    )


def _describe(folder: Path, facts: CardFacts, naming: _Naming) -> None:
    """Writes the class names, the card and the Croissant metadata beside the files."""
    if naming.several:
        (folder / "dataset_type.txt").write_text("multilabel\n")
    # the order of the lines is that of the labels
    (folder / "classnames.txt").write_text("".join(f"{name}\n" for name in facts.labels), "utf-8")
    (folder / "README.md").write_text(write_card(facts), "utf-8")
    kinds = facts.contents.kinds
    document = croissant(
        CroissantFacts(
            name=facts.title,
            description=f"{facts.contents.num_images:,} labelled images of {len(facts.labels):,} classes.",
            licence=hub_licence(facts.licences),
            format=facts.format,
            labels=facts.labels,
            folders=naming.folders,
            has_several=bool(naming.several),
            written=facts.written,
            generators=sorted({f"{kind.generator} {kind.revision}".strip() for kind in kinds if kind.generator}),
            published=datetime.now(UTC).date(),
        ),
        folder,
    )
    (folder / "croissant.json").write_text(json.dumps(document, indent=1, ensure_ascii=False), "utf-8")


def _signer(config: ExportConfig) -> Signer | None:
    if config.c2pa_test_credential:
        return Signer(*make_test_credential())
    if config.c2pa_key is None or config.c2pa_chain is None:
        return None
    return Signer.from_files(config.c2pa_key, config.c2pa_chain)


def _writer(config: ExportConfig, folder: Path, naming: "_Naming", extra: list[pa.Field]) -> Writer:
    if config.format == "parquet":
        limits = Limits(config.shard_mb * MB, config.row_group_mb * MB)
        return ParquetWriter(folder, naming.features(extra), extra, limits)
    if config.format == "webdataset":
        return WebDatasetWriter(folder, config.shard_mb * MB, naming.several)
    return FolderWriter(folder, naming.folders, naming.several)


def _stream(snapshot: Snapshot, contents: Contents, writer: Writer, marker: Marker, extra: list[pa.Field]) -> None:
    label_of = {key: number for number, key in enumerate(contents.classes)}
    progress = Progress("export", contents.num_images, has_price=False)
    for batch in snapshot.scan(columns_to_read(snapshot)):
        for split in sorted(set(batch.column("split").to_pylist()), key=lambda name: (name != "train", name)):
            part = batch.filter(pc.equal(batch.column("split"), split))
            rows = Rows(
                split,
                part.column("id").to_pylist(),
                marker.mark(part),
                labels_of(part, label_of),
                as_exported(part, extra),
            )
            writer.add(rows)
        progress.add(batch.num_rows)
        progress.show()
    progress.close()


def _marks(marker: Marker, signer: Signer | None, config: ExportConfig) -> str:
    if not marker.num_marked:
        return "No image of this data set is generated, so none has a mark."
    weight = f"They add {marker.num_bytes / marker.num_marked:,.0f} bytes to an image, and change no pixel."
    xmp = (
        f"The {marker.num_marked:,} generated images carry IPTC's DigitalSourceType in XMP: trainedAlgorithmicMedia, or "
        "compositeWithTrainedAlgorithmicMedia where a reference image was given. Originals carry no mark."
    )
    if signer is None:
        return f"{xmp} {XMP_ALONE}. {weight}"
    trust = " by a test credential that no reader trusts" if config.c2pa_test_credential else ""
    return f"{xmp} They also carry a C2PA manifest, signed{trust}. {weight}"
