"""The models that are known by name: the entries of `registry.toml`, and those of a file of the user's own."""

import os
import tomllib
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from engine.models.weights import folder_revision
from engine.names import unknown_name

VARIABLE = "IMAGEFOUNDRY_REGISTRY"
"""Environment variable that names a TOML file with further `[generators.NAME]` and `[encoders.NAME]` tables."""

Entries = dict[str, dict[str, Any]]
"""Name → fields of the entry, as TOML states them."""


def generator_entries() -> Entries:
    """The generators by name. Raises ValueError if the file that `IMAGEFOUNDRY_REGISTRY` names is invalid."""
    return _all_entries(os.environ.get(VARIABLE, ""))["generators"]


def encoder_entries() -> Entries:
    """The encoders by name. Raises ValueError if the file that `IMAGEFOUNDRY_REGISTRY` names is invalid."""
    return _all_entries(os.environ.get(VARIABLE, ""))["encoders"]


def generator_names() -> list[str]:
    """Names of the generators."""
    return list(generator_entries())


def encoder_names() -> list[str]:
    """Names of the encoders; open_clip's `ARCHITECTURE/WEIGHTS` pairs are known besides."""
    return list(encoder_entries())


def reference_scales() -> Mapping[str, float]:
    """Reference mode → default scale, where a generator's entry states none."""
    scales: dict[str, float] = _own_tables()["reference_scales"]
    return scales


@cache
def _own_tables() -> dict[str, Any]:
    return tomllib.loads(files("engine.models").joinpath("registry.toml").read_text("utf-8"))


@cache
def _all_entries(path: str) -> dict[str, Entries]:
    own = {kind: _own_tables()[kind] for kind in ("generators", "encoders")}
    if not path:
        return own
    try:
        tables = tomllib.loads(Path(path).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{VARIABLE} names {path}, which is not a readable TOML file ({error}); correct it") from error
    for kind in tables:
        if kind not in own:
            raise ValueError(f"{path}: {unknown_name('table', kind, list(own))}")
        if taken := sorted(own[kind].keys() & tables[kind].keys()):
            raise ValueError(f"{path} has an entry {taken[0]!r}, a name that is taken; choose another name")
    return {kind: entries | tables.get(kind, {}) for kind, entries in own.items()}


def resolve_source(source: str) -> str:
    """The folder that a `package:` path names in the installed package; any other source is returned unchanged."""
    if source.startswith("package:"):
        return str(files("engine").joinpath(source.removeprefix("package:")))
    return source


def encoder_source(name: str) -> str:
    """The encoder's location in open_clip's terms: `local-dir:FOLDER` or `ARCHITECTURE/WEIGHTS`.

    Raises:
        ValueError: `name` is not a registry name, a folder, or a pair that open_clip knows.
    """
    entry = encoder_entries().get(name)
    if entry is not None:
        return f"local-dir:{resolve_source(entry['source'])}"
    if Path(name).is_dir():
        return f"local-dir:{Path(name).resolve()}"
    import open_clip

    architecture, _, weights = name.partition("/")
    if weights and weights in open_clip.list_pretrained_tags_by_model(architecture):
        return name
    pairs = ["/".join(pair) for pair in open_clip.list_pretrained()]
    raise ValueError(
        unknown_name("encoder", name, encoder_names() + pairs, "or give the path of an open_clip folder")
        if weights
        else unknown_name(
            "encoder",
            name,
            encoder_names(),
            "or an open_clip ARCHITECTURE/WEIGHTS pair such as ViT-B-32/openai, or a folder",
        )
    )


def embedding_name(encoder: str) -> str:
    """Name of the embeddings that an encoder makes, found without loading it.

    For a folder it ends in a hash of the weights, so that retrained weights get an embedding column of their own.

    Raises:
        ValueError: unknown name; pickled or missing weights.
    """
    location = encoder_source(encoder)
    if not location.startswith("local-dir:"):
        return encoder
    folder = Path(location.removeprefix("local-dir:"))
    return f"{encoder if encoder in encoder_names() else folder.name}@{folder_revision(folder)[:8]}"
