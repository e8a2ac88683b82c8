"""`imagefoundry build-corpus`: tables of web pictures and captions (LAION and its like) become a corpus to retrieve from."""

import json
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from engine.catalog.account import Account
from engine.catalog.caption_tables import RowRules, plan_parts
from engine.studies.config import check_place, expanded


@dataclass(frozen=True, kw_only=True)
class CorpusConfig:
    """The tables and what is taken from them."""

    tables: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="TABLES")]
    """Folder or URL of parquet tables with the addresses and captions of pictures."""
    corpus: str = ""
    """Name of the corpus; the folder's if not given. The same name again goes on, or adds the files that are new."""
    workspace: str = "workspace"
    """Folder or s3:// prefix of the workspace."""
    encoder: str = "mini-clip"
    """Registry name, open_clip ARCHITECTURE/WEIGHTS pair (ViT-B-32/openai) or open_clip folder; its text tower embeds the captions."""
    rows: tyro.conf.OmitArgPrefixes[RowRules] = field(default_factory=RowRules)
    """Rows that are taken."""
    index: bool = False
    """Build an index (IVF_RQ) for single queries; whole sets of classes are searched exactly and need none."""
    price_book: Path | None = None
    """Price book (TOML); the shipped one if not given."""
    instance: str | None = None
    """Instance of the price book that the machines are; chosen by the cluster's accelerator if not given."""
    device: Literal["auto", "cpu", "gpu"] = "auto"
    """Device of the encoder: `auto` takes GPUs if the cluster has them or can add them."""

    def __post_init__(self) -> None:
        """Expands `~`, and names the corpus after its folder."""
        object.__setattr__(self, "tables", expanded(self.tables))
        object.__setattr__(self, "workspace", expanded(self.workspace))
        object.__setattr__(self, "encoder", expanded(self.encoder, True))
        if not self.corpus:
            object.__setattr__(self, "corpus", self.tables.rstrip("/").rsplit("/", 1)[-1])

    def check(self) -> None:
        """Raises ValueError if the configuration is invalid."""
        if not self.tables.strip() or not self.corpus.strip():
            raise ValueError("the tables or the corpus have no name; give the folder of the tables, and --corpus")
        check_place("tables", self.tables)
        check_place("workspace", self.workspace)
        self.rows.check()


@dataclass(frozen=True)
class CorpusReport:
    """The outcome."""

    corpus: str
    files: Account
    """Files of the folder: used, ignored and refused."""
    rows: int
    """Rows of all tables that are used."""
    captions: int
    """Captions of the corpus now."""
    added: int
    """Captions that this run added."""
    left: dict[str, int]
    """`ignored: …` or `refused: …` → rows of these tables, over all runs."""
    earlier: int = 0
    """Captions of files that are no longer among the tables."""


def build_corpus(config: CorpusConfig) -> CorpusReport:
    """Adds what the corpus lacks of the tables; killed anywhere and started again, it ends with the same captions.

    Raises:
        ValueError: a table lacks the addresses or captions; there is no such encoder; the corpus was built with another
            encoder or other rules.
        RunFailed: workers die repeatedly, or commits fail permanently.
    """
    from engine.costs import PriceBook
    from engine.dataflow.captions import CaptionJob, ingest
    from engine.dataflow.run import Run
    from engine.models.lazy import LazyEncoder
    from engine.models.reach import check_encoder
    from engine.store import Workspace
    from engine.store.captions import (
        build_caption_index,
        corpus_parts,
        drop_halves,
        ensure_caption_encoder,
        guard_captions,
    )

    config.check()
    check_encoder(config.encoder)
    parts, account = plan_parts(config.tables, config.rows)
    prices, encoder = PriceBook.load(config.price_book), LazyEncoder(config.encoder)
    if config.instance:
        prices.instance(config.instance)
    settings = json.dumps(asdict(config.rows), sort_keys=True)
    workspace = Workspace.open(config.workspace)
    _check_same(config, corpus_parts(workspace, config.corpus).to_pylist(), encoder.name, settings)
    with Run(workspace, prices, config.instance, asdict(config), device=config.device) as run:
        guard_captions(workspace)
        ensure_caption_encoder(workspace, encoder.name, encoder.dimension)
        drop_halves(workspace, config.corpus)
        done = set(corpus_parts(workspace, config.corpus)["part"].to_pylist())
        pending = [part for part in parts if part.number(config.corpus) not in done]
        added = 0
        if pending:
            job = CaptionJob(workspace.uri, config.tables, config.corpus, config.rows, encoder.name, encoder.source)
            added = ingest(run, job, pending, settings).used
    if config.index:
        with workspace.lock("index captions"):
            build_caption_index(workspace, encoder.name)
    return _report(config, account, corpus_parts(workspace, config.corpus).to_pylist(), parts, added)


def _check_same(config: CorpusConfig, done: list[dict[str, Any]], encoder: str, settings: str) -> None:
    for name, value in (("encoder", encoder), ("settings", settings)):
        for row in done:
            if row[name] != value:
                raise ValueError(
                    f"corpus {config.corpus} was built with {name} {row[name]}, not {value}; give the same, or another --corpus"
                )


def _report(
    config: CorpusConfig, files: Account, done: list[dict[str, Any]], parts: list[Any], added: int
) -> CorpusReport:
    numbers = {part.number(config.corpus) for part in parts}
    left: Counter[str] = Counter()
    for row in done:
        if row["part"] in numbers:
            left.update(json.loads(row["left"]))
    return CorpusReport(
        config.corpus,
        files,
        sum(row["rows"] for row in done if row["part"] in numbers),
        sum(row["used"] for row in done),
        added,
        dict(left.most_common()),
        sum(row["used"] for row in done if row["part"] not in numbers),
    )
