"""Settings of an export."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

import tyro

from engine.command import check_place
from engine.export.safety import THRESHOLD

Format: TypeAlias = Literal["parquet", "webdataset", "folder"]


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """The images to export, where to, and in which form."""

    workspace: Annotated[str, tyro.conf.arg(metavar="W")]
    """Folder or s3://bucket/prefix of the workspace."""
    output: str | Path
    """New folder, or s3://bucket/prefix; it appears when everything is written."""
    format: Format = "parquet"
    """`parquet` (Hugging Face), `webdataset` (tar shards) or `folder` (one file per image)."""
    where: str = ""
    """SQL condition on the images, as "split = 'train' AND source = 'generative'"; empty for all."""
    title: str = ""
    """Name of the data set in its card; the output's by default."""
    shard_mb: int = 500
    """Megabytes per file of parquet and webdataset, at most."""
    row_group_mb: int = 100
    """Megabytes per row group of parquet, at most."""
    c2pa_key: Path | None = None
    """PEM file (PKCS#8, EC P-256) of the key that signs C2PA manifests; without one, generated images have XMP marks alone."""
    c2pa_chain: Path | None = None
    """PEM file of the key's certificate and those that vouch for it, leaf first."""
    c2pa_test_credential: bool = False
    """Sign C2PA manifests with a credential made for this export, which no reader trusts: for trials."""
    commercial: bool = False
    """The data set will be used commercially: refuse what a licence does not allow for that."""
    allow_licence: tuple[str, ...] = ()
    """Licences that forbid the export and are put aside, by name, because you have the right by other means."""
    licence_of: tuple[str, ...] = ()
    """Licences of your own data sets, pools and generators, as NAME=LICENCE."""
    audit: bool = True
    """Audit the images first (leakage, duplicates, balance, diversity) and write the findings into the card."""
    audit_images: int = 2_000
    """Images that the slow checks of the audit look at, sampled at random; 0 for all."""
    safety_threshold: float = THRESHOLD
    """Score of a safety checker from which the card counts an image as flagged, where `imagefoundry check-safety` has run."""

    def __post_init__(self) -> None:
        if "://" not in str(self.output):
            object.__setattr__(self, "output", Path(self.output).expanduser())

    def check(self) -> None:
        """Raises ValueError for values that cannot be, or do not go together."""
        check_place("workspace", self.workspace)
        check_place("output", self.output)
        if self.shard_mb < 1 or self.row_group_mb < 1:
            raise ValueError(
                f"shards of {self.shard_mb} MB and row groups of {self.row_group_mb} MB are too small; give 1 or more"
            )
        if self.audit_images < 0:
            raise ValueError(f"audit images is {self.audit_images}; give 0 for all, or more")
        if (self.c2pa_key is None) != (self.c2pa_chain is None):
            raise ValueError(
                "a C2PA key and its certificate chain belong together; give both --c2pa-key and --c2pa-chain"
            )
        if self.c2pa_key is not None and self.c2pa_test_credential:
            raise ValueError("--c2pa-key and --c2pa-test-credential exclude each other; leave one out")
