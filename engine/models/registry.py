"""Which models there are (`registry.toml`), and where their files lie."""

import json
import tomllib
from dataclasses import dataclass, fields, replace
from functools import cache
from hashlib import blake2b
from importlib.resources import files
from pathlib import Path
from typing import Any

from engine.names import unknown_name


@dataclass(frozen=True, kw_only=True)
class GeneratorSpec:
    """A generator and its defaults."""

    name: str
    """Name in the registry, or the folder it was given as."""
    pipeline: str
    """Class in `diffusers`, or `` to take the one named in the folder's `model_index.json`."""
    source: str
    """Hub id or folder."""
    revision: str = "main"
    """Hub revision; for a folder, a hash of its weights."""
    dtype: str = "float32"
    """Arithmetic of the weights: `float32`, `bfloat16` or `float16` (float32 where the device lacks it, see precision.py)."""
    num_inference_steps: int = 50
    """Sampler steps."""
    guidance_scale: float = 7.5
    """Classifier-free guidance scale."""
    height: int = 512
    """Pixels."""
    width: int = 512
    """Pixels."""
    batch_size: int = 8
    """Images made at once; halved when the device runs out of memory."""
    num_gpus: float = 1.0
    """Share of a GPU that one copy of the model takes; small models share one."""
    licence: str = ""
    """Licence of the weights, as their source states it."""

    @property
    def is_local(self) -> bool:
        """Whether the weights lie in a folder of this machine."""
        return Path(self.source).is_dir()


@cache
def _registry() -> dict[str, dict[str, dict[str, Any]]]:
    return tomllib.loads(files("engine.models").joinpath("registry.toml").read_text("utf-8"))


def encoder_names() -> list[str]:
    """Encoders of the registry; open_clip's own `ARCHITECTURE/WEIGHTS` pairs come besides."""
    return list(_registry()["encoders"])


def generator_names() -> list[str]:
    """Generators of the registry."""
    return list(_registry()["generators"])


def resolve_source(source: str) -> str:
    """A `package:` path becomes a folder of the installed package; anything else stays as it is."""
    if source.startswith("package:"):
        return str(files("engine").joinpath(source.removeprefix("package:")))
    return source


def encoder_source(name: str) -> str:
    """What open_clip is asked for: `local-dir:FOLDER` or `ARCHITECTURE/WEIGHTS`.

    Raises:
        ValueError: neither a registry name, a folder, nor a pair open_clip knows.
    """
    entry = _registry()["encoders"].get(name)
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


@cache
def generator_spec(name: str) -> GeneratorSpec:
    """The generator of this name, or in this diffusers folder.

    Raises:
        ValueError: neither a registry name nor a diffusers folder, or its weights are pickles.
    """
    entry = _registry()["generators"].get(name)
    if entry is not None:
        spec = GeneratorSpec(
            name=name, **{k: v for k, v in entry.items() if k in {f.name for f in fields(GeneratorSpec)}}
        )
        spec = replace(spec, source=resolve_source(spec.source))
    elif (Path(name) / "model_index.json").is_file():
        folder = Path(name).resolve()
        spec = GeneratorSpec(name=folder.name, pipeline="", source=str(folder), **_native_size(folder))
    elif Path(name).is_dir():
        raise ValueError(
            f"{name} is no diffusers folder (model_index.json is missing); save a pipeline there with save_pretrained"
        )
    else:
        raise ValueError(unknown_name("generator", name, generator_names(), "or give the path of a diffusers folder"))
    return replace(spec, revision=folder_revision(Path(spec.source))) if spec.is_local else spec


def _native_size(folder: Path) -> dict[str, Any]:
    """Height and width a diffusers folder was made for, as far as its configs tell: latent size times the VAE's factor."""
    try:
        denoiser = next(path for name in ("unet", "transformer") if (path := folder / name / "config.json").is_file())
        latent = json.loads(denoiser.read_text())["sample_size"]
        factor = 2 ** (len(json.loads((folder / "vae" / "config.json").read_text())["block_out_channels"]) - 1)
        return {"height": latent * factor, "width": latent * factor}
    except (StopIteration, OSError, KeyError, TypeError, ValueError):
        return {}


def check_weights(folder: Path) -> list[Path]:
    """The folder's safetensors files.

    Raises:
        ValueError: it has none, or has pickled weights where safetensors should be.
    """
    weights = sorted(folder.rglob("*.safetensors"))
    if weights:
        return weights
    pickles = sorted(path for suffix in ("bin", "pt", "pth", "ckpt", "pkl") for path in folder.rglob(f"*.{suffix}"))
    if pickles:
        raise ValueError(
            f"{folder} holds pickled weights ({pickles[0].name}), which can run code when loaded; convert them to safetensors"
        )
    raise ValueError(f"{folder} has no weights (*.safetensors); download or save the checkpoint again")


def folder_revision(folder: Path) -> str:
    """Hash of a folder's configs and weights, 16 hexadecimal digits. Raises ValueError as `check_weights` does."""
    digest = blake2b(digest_size=8)
    for path in [*sorted(folder.rglob("*.json")), *check_weights(folder)]:
        digest.update(path.relative_to(folder).as_posix().encode())
        with path.open("rb") as file:
            while chunk := file.read(1 << 22):
                digest.update(chunk)
    return digest.hexdigest()
