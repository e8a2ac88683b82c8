"""`imagefoundry embed`: embed the images of a workspace by one more encoder."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from engine.models.gpu_decoding import Decode


@dataclass(frozen=True)
class EmbedConfig:
    """The images and their encoder."""

    workspace: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="WORKSPACE")]
    """Folder or s3://bucket/prefix of the workspace."""
    encoder: str = "mini-clip"
    """Registry name, open_clip ARCHITECTURE/WEIGHTS pair (ViT-B-32/openai) or open_clip folder."""
    where: str = ""
    """SQL condition on the columns of `images`, such as "dataset = 'mini-rare'"; all images if not given."""
    decode: Decode = "cpu"
    """Where images are decoded: `gpu` takes nvJPEG for JPEGs; the pixels differ a little, so its embeddings get a column of their own."""
    price_book: Path | None = None
    """Price book (TOML); the shipped one if not given."""
    instance: str | None = None
    """Instance of the price book that the machines are; chosen by the cluster's accelerator if not given."""
    device: Literal["auto", "cpu", "gpu"] = "auto"
    """Device of the encoder: `auto` takes GPUs if the cluster has them or can add them."""


@dataclass(frozen=True)
class Embedded:
    """The outcome."""

    images: int
    """Images that were asked for."""
    embedded: int
    """Images that were embedded now; the rest had an embedding, or cannot be embedded."""
    column: str
    """Column of the embeddings."""


def embed_images(config: EmbedConfig) -> Embedded:
    """Embeds the images that lack an embedding.

    Raises ValueError if there is no workspace, the encoder is unknown, the condition is invalid, or there is no GPU to
    decode on.
    """
    from engine.costs import PriceBook
    from engine.dataflow.run import Run
    from engine.dataflow.stages import Embed
    from engine.models.lazy import LazyEncoder
    from engine.models.reach import check_encoder
    from engine.recipe import embedding_column
    from engine.store import Workspace
    from engine.store.conditions import ids_where

    check_encoder(config.encoder)
    workspace = Workspace.open(config.workspace, create=False)
    encoder = LazyEncoder(config.encoder)
    ids: list[str] = ids_where(workspace, config.where).to_pylist()
    prices = PriceBook.load(config.price_book)
    with Run(workspace, prices, config.instance, asdict(config), device=config.device) as run:
        embedded = run.embed(encoder, ids, decode=config.decode)
    return Embedded(len(ids), embedded, embedding_column(Embed.of(encoder, decode=config.decode).encoder))
