"""Which models there are (`registry.toml`), and where their files lie."""

import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from engine.models.families import family_of
from engine.models.weights import BYTES, check_weights, count_parameters, folder_revision
from engine.names import unknown_name

SPEEDS = ("exact", "fast", "lossy")
"""What is given up for speed: nothing; nothing but bitwise sameness with `exact`; some likeness to what the model would draw."""


@dataclass(frozen=True, kw_only=True)
class Auxiliary:
    """A model that a generator takes for one purpose: a ControlNet, an IP-Adapter, a tiny VAE."""

    source: str
    """Hub id or folder."""
    revision: str = "main"
    """Hub revision; for a folder, a hash of its weights."""
    subfolder: str = ""
    """Where in the source its files lie."""
    weights: str = ""
    """Name of the one file to take, for models that are no diffusers folder."""
    licence: str = ""
    """Licence of the weights, as their source states it."""
    gated: bool = False
    """Whether the Hub asks to accept a licence first."""
    preprocessor: str = "canny"
    """Of a ControlNet: what it is shown of the reference, its edges (`canny`) or its pixels (`none`)."""
    edge_range: tuple[float, float] = (0.0, 1.0)
    """Of a ControlNet: the values it was trained to see for no edge and for an edge; for pixels, for black and white."""

    @property
    def is_local(self) -> bool:
        """Whether the weights lie in a folder of this machine."""
        return Path(self.source).is_dir()

    @property
    def pin(self) -> dict[str, Any]:
        """What every `from_pretrained` is told: where to look, safetensors only."""
        pin: dict[str, Any] = {"use_safetensors": True}
        if self.subfolder:
            pin["subfolder"] = self.subfolder
        return pin | ({"local_files_only": True} if self.is_local else {"revision": self.revision})


@dataclass(frozen=True, kw_only=True)
class GeneratorSpec:
    """A generator and its defaults."""

    name: str
    """Name in the registry, or the folder it was given as."""
    pipeline: str
    """Class in `diffusers`, or in this package where the library has none."""
    source: str
    """Hub id or folder."""
    revision: str = "main"
    """Hub revision; for a folder, a hash of its weights."""
    variant: str = ""
    """Hub file variant, such as `fp16`."""
    dtype: str = "float32"
    """Arithmetic of the weights: `float32`, `bfloat16` or `float16` (float32 where the device lacks it, see precision.py)."""
    num_inference_steps: int = 50
    """Sampler steps."""
    guidance_scale: float = 7.5
    """Classifier-free guidance scale; for guidance-distilled models, the scale they are told."""
    negative_guidance_scale: float = 0.0
    """Guidance scale with a negative prompt, where a model's own default has no guidance; 0 for the default itself."""
    height: int = 512
    """Pixels."""
    width: int = 512
    """Pixels."""
    scheduler: str = ""
    """Scheduler class in `diffusers`; `` for the one the checkpoint comes with."""
    scheduler_options: Mapping[str, Any] = field(default_factory=dict)
    """What the scheduler is told beyond the checkpoint's own settings."""
    batch_size: int = 8
    """Images made at once; halved when the device runs out of memory."""
    num_gpus: float = 1.0
    """Share of a GPU that one copy of the model takes; small models share one."""
    reference_modes: Mapping[str, float] = field(default_factory=dict)
    """How a reference image can enter → the scale to begin with; the first is the default."""
    auxiliaries: Mapping[str, Auxiliary] = field(default_factory=dict)
    """Purpose (`controlnet`, `ip_adapter`, `image_encoder`, `redux`, `unet`, `tiny_vae`) → model."""
    speed: str = "exact"
    """One of `SPEEDS`."""
    levers: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Speed → what it does on a device that gains from it (see speed.py)."""
    gated: bool = False
    """Whether the Hub asks to accept a licence first."""
    licence: str = ""
    """Licence of the weights, as their source states it."""
    parameters: float = 0.0
    """Numbers in all its weights, auxiliaries left out."""
    denoiser_parameters: float = 0.0
    """Those of them in the UNet or transformer, where `fp8` may keep them in 8 bits."""
    facts: tuple[str, ...] = ()
    """Where the facts of this entry come from, with dates."""

    @property
    def is_local(self) -> bool:
        """Whether the weights lie in a folder of this machine."""
        return Path(self.source).is_dir()

    @property
    def needs_gpu(self) -> bool:
        """Whether it is of no use on processors: published weights that fill a GPU."""
        return not self.is_local and self.num_gpus >= 1

    @property
    def weights_gb(self) -> float:
        """Gigabytes (1e9 bytes) that the weights take in the entry's dtype: parameters times bytes of a number."""
        return self.parameters * BYTES[self.dtype] / 1e9

    def weights_bytes(self, dtype: str) -> float:
        """Bytes that the weights take in a dtype; what `fp8` keeps in 8 bits counts one a number."""
        small = self.denoiser_parameters if self.speed == "lossy" and "fp8" in self.levers.get("lossy", ()) else 0.0
        return (self.parameters - small) * BYTES[dtype] + small

    @property
    def reference_mode(self) -> str:
        """How a reference enters unless it is said otherwise; `` if the generator takes none."""
        return next(iter(self.reference_modes), "")

    def recipe_revision(self, reference_mode: str = "") -> str:
        """What stands in a recipe's `revision`: the weights', its reference model's, and `lossy` if pixels were traded for speed."""
        parts = [self.revision]
        parts += [
            f"{name}@{self.auxiliaries[name].revision}"
            for name in {"ip_adapter": ("ip_adapter", "image_encoder")}.get(reference_mode, (reference_mode,))
            if name in self.auxiliaries
        ]
        return "+".join([*parts, "lossy"] if self.speed == "lossy" else parts)

    def recipe_fields(
        self, reference_id: str = "", reference_mode: str = "", reference_scale: float | None = None
    ) -> dict[str, Any]:
        """The fields of a `Recipe` that the generator decides; a reference takes the default mode and scale unless told.

        Raises:
            ValueError: the generator cannot take a reference this way.
        """
        values: dict[str, Any] = {
            "generator": self.name,
            "num_inference_steps": self.num_inference_steps,
            "guidance_scale": self.guidance_scale,
            "height": self.height,
            "width": self.width,
        }
        if reference_id:
            mode = reference_mode or self.reference_mode
            self.check_reference_mode(mode)
            scale = self.reference_modes[mode] if reference_scale is None else reference_scale
            values |= {"reference_id": reference_id, "reference_mode": mode, "reference_scale": scale}
        elif reference_mode or reference_scale is not None:
            raise ValueError("a reference mode or scale without a reference image means nothing; give reference_id too")
        return values | {"revision": self.recipe_revision(values.get("reference_mode", ""))}

    def check_reference_mode(self, mode: str) -> None:
        """Raises ValueError, one sentence, if a reference cannot enter this way."""
        if not self.reference_modes:
            raise ValueError(f"generator {self.name} takes no reference image; leave reference_id empty")
        if mode not in self.reference_modes:
            raise ValueError(
                f"generator {self.name} takes no reference by {mode or 'an empty reference_mode'}; "
                f"give one of {', '.join(self.reference_modes)}"
            )


@cache
def _registry() -> dict[str, dict[str, Any]]:
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


def generator_spec(
    name: str, *, source: str = "", speed: str = "exact", auxiliaries: Mapping[str, str] | None = None
) -> GeneratorSpec:
    """The generator of this name, or in this diffusers folder.

    Args:
        name: registry name or folder.
        source: hub id (`owner/name` or `owner/name@revision`) or folder to take the weights from instead of the entry's own.
        speed: one of `SPEEDS`.
        auxiliaries: purpose → hub id or folder, as `source`, instead of the entry's own or besides.

    Raises:
        ValueError: neither a registry name nor a diffusers folder, its weights are pickles, or it has no such speed.
    """
    entry = _registry()["generators"].get(name)
    spec = _entry(name, entry) if entry is not None else _folder(name)
    if source:
        where, revision = _where(source)
        # another copy of the same Hub id keeps the entry's file variant
        variant = spec.variant if where == spec.source else ""
        spec = replace(spec, source=where, revision=revision, variant=variant)
    extra = dict(spec.auxiliaries)
    for purpose, given in (auxiliaries or {}).items():
        if purpose in _registry()["reference_scales"] and purpose not in family_of(spec.pipeline).pipelines:
            raise ValueError(f"a {spec.pipeline} takes no {purpose}; leave it out")
        where, revision = _where(given)
        extra[purpose] = replace(extra.get(purpose, Auxiliary(source=where)), source=where, revision=revision)
    for purpose, auxiliary in extra.items():
        if auxiliary.is_local:
            extra[purpose] = replace(auxiliary, revision=_revision(auxiliary.source))
    known = _registry()["reference_scales"]
    modes = {
        mode: spec.reference_modes.get(mode, known[mode]) for mode in [*spec.reference_modes, *extra] if mode in known
    }
    spec = replace(spec, auxiliaries=extra, reference_modes=modes, speed=_check_speed(spec, speed))
    if not spec.is_local:
        return spec
    folder = Path(spec.source)
    return replace(
        spec,
        revision=_revision(spec.source),
        variant="",
        parameters=count_parameters(folder),
        denoiser_parameters=count_parameters(folder / family_of(spec.pipeline).denoiser_name)
        if spec.denoiser_parameters
        else 0.0,
    )


def _where(source: str) -> tuple[str, str]:
    """Folder or hub id, and revision, of what a user gives as a source. Raises ValueError for what is neither."""
    if Path(source).is_dir():
        return str(Path(source).resolve()), "main"
    name, _, revision = source.partition("@")
    if name.count("/") != 1:
        raise ValueError(
            f"generator source {source} is neither a folder nor a hub id OWNER/NAME or OWNER/NAME@REVISION; give one of them"
        )
    return name, revision or "main"


def _entry(name: str, entry: Mapping[str, Any]) -> GeneratorSpec:
    scales = _registry()["reference_scales"]
    modes = {
        mode: entry.get("reference_scales", {}).get(mode, scales[mode]) for mode in entry.get("reference_modes", ())
    }
    return GeneratorSpec(
        name=name,
        **{key: value for key, value in entry.items() if key in {f.name for f in fields(GeneratorSpec)}}
        | {
            "source": resolve_source(entry["source"]),
            "reference_modes": modes,
            "auxiliaries": {
                key: Auxiliary(
                    **value
                    | {
                        "source": resolve_source(value["source"]),
                        "edge_range": tuple(value.get("edge_range", (0.0, 1.0))),
                    }
                )
                for key, value in entry.get("auxiliaries", {}).items()
            },
            "levers": {speed: tuple(levers) for speed, levers in entry.get("levers", {}).items()},
            "parameters": entry.get("parameters_billion", 0.0) * 1e9,
            "denoiser_parameters": entry.get("denoiser_billion", 0.0) * 1e9,
            "facts": tuple(entry.get("facts", ())),
        },
    )


def _folder(name: str) -> GeneratorSpec:
    folder = Path(name)
    if (folder / "model_index.json").is_file():
        check_weights(folder)
        pipeline = json.loads((folder / "model_index.json").read_text()).get("_class_name", "")
        scales = _registry()["reference_scales"]
        return GeneratorSpec(
            name=folder.resolve().name,
            pipeline=pipeline,
            source=str(folder.resolve()),
            reference_modes={mode: scales[mode] for mode in family_of(pipeline).own_modes},
            **_native_size(folder),
        )
    if folder.is_dir():
        raise ValueError(
            f"{name} is no diffusers folder (model_index.json is missing); save a pipeline there with save_pretrained"
        )
    raise ValueError(unknown_name("generator", name, generator_names(), "or give the path of a diffusers folder"))


def _check_speed(spec: GeneratorSpec, speed: str) -> str:
    if speed not in SPEEDS:
        raise ValueError(unknown_name("speed", speed, SPEEDS))
    if speed != "exact" and not spec.levers.get(speed):
        able = [name for name in SPEEDS if name == "exact" or spec.levers.get(name)]
        raise ValueError(f"generator {spec.name} has no way to be {speed}; choose from: {', '.join(able)}")
    return speed


@cache
def _revision(folder: str) -> str:
    return folder_revision(Path(folder))


def _native_size(folder: Path) -> dict[str, Any]:
    """Height and width a diffusers folder was made for, as far as its configs tell: latent size times the VAE's factor."""
    try:
        if (upsampler := folder / "upsampler" / "config.json").is_file():  # GLIDE
            side = json.loads(upsampler.read_text()).get("image_size", 256)
            return {"height": side, "width": side}
        denoiser = next(path for name in ("unet", "transformer") if (path := folder / name / "config.json").is_file())
        latent = json.loads(denoiser.read_text())["sample_size"]
        factor = 2 ** (len(json.loads((folder / "vae" / "config.json").read_text())["block_out_channels"]) - 1)
        return {"height": latent * factor, "width": latent * factor}
    except (StopIteration, OSError, KeyError, TypeError, ValueError):
        return {}
