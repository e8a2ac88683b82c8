"""`GeneratorSpec`: a generator's pipeline class, weights, defaults and reference modes, as `registry.toml` states them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.models.weights import BYTES

SPEEDS = ("exact", "fast", "lossy")
"""`exact` changes no image; `fast` changes rounding only, after a compilation of minutes; `lossy` changes images for speed."""

MODE_AUXILIARIES: Mapping[str, tuple[str, ...]] = {"ip_adapter": ("ip_adapter", "image_encoder")}
"""Reference mode → auxiliaries that it uses, where that is more than the one of its own name."""


@dataclass(frozen=True, kw_only=True)
class Auxiliary:
    """A model that a generator uses for one purpose: a ControlNet, an IP-Adapter, a tiny VAE."""

    source: str
    """Hub id or folder."""
    revision: str = "main"
    """Hub revision; for a folder, a hash of its weights."""
    subfolder: str = ""
    """Folder of its files within the source."""
    weights: str = ""
    """Name of the weights file, for models that are not diffusers folders."""
    licence: str = ""
    """Licence of the weights, as their source states it."""
    gated: bool = False
    """Whether the Hub asks users to accept a licence first."""
    preprocessor: str = "canny"
    """Input of a ControlNet: the reference's edges (`canny`) or its pixels (`none`)."""
    edge_range: tuple[float, float] = (0.0, 1.0)
    """Values that a ControlNet was trained to see for no edge and for an edge; for pixels, for black and white."""

    @property
    def is_local(self) -> bool:
        """Whether the weights are in a folder on this machine."""
        return Path(self.source).is_dir()

    @property
    def from_pretrained_arguments(self) -> dict[str, Any]:
        """Keyword arguments of `from_pretrained`: subfolder, revision, and safetensors only."""
        arguments: dict[str, Any] = {"use_safetensors": True}
        if self.subfolder:
            arguments["subfolder"] = self.subfolder
        return arguments | ({"local_files_only": True} if self.is_local else {"revision": self.revision})


@dataclass(frozen=True, kw_only=True)
class GeneratorSpec:
    """A generator and its defaults."""

    name: str
    """Name in the registry, or name of the folder."""
    pipeline: str
    """Pipeline class, one of `engine.models.generators.ADAPTERS`."""
    source: str
    """Hub id or folder."""
    revision: str = "main"
    """Hub revision; for a folder, a hash of its weights."""
    variant: str = ""
    """Hub file variant, such as `fp16`."""
    dtype: str = "float32"
    """Arithmetic of the weights: `float32`, `bfloat16` or `float16`; a device without it uses float32 (precision.py)."""
    num_inference_steps: int = 50
    """Sampler steps."""
    guidance_scale: float = 7.5
    """Scale of classifier-free guidance; for guidance-distilled models, the scale that is their input; 0 for models without."""
    distilled_guidance: float = 1.0
    """Guidance that the weights have learned to give by themselves, which Textual Inversion takes out of its loss; 1 for none."""
    negative_guidance_scale: float = 0.0
    """Guidance scale with a negative prompt, for models whose default has no guidance; 0 for the default itself."""
    height: int = 512
    """Pixels."""
    width: int = 512
    """Pixels."""
    scheduler: str = ""
    """Scheduler class in `diffusers`; empty for the checkpoint's own."""
    scheduler_options: Mapping[str, Any] = field(default_factory=dict)
    """Settings of the scheduler that replace the checkpoint's."""
    batch_size: int = 8
    """Images per pipeline call; halved when the device runs out of memory."""
    num_gpus: float = 1.0
    """GPUs per copy of the model; small models share one."""
    reference_modes: Mapping[str, float] = field(default_factory=dict)
    """Reference mode → default scale; the first mode is the default."""
    auxiliaries: Mapping[str, Auxiliary] = field(default_factory=dict)
    """Purpose (`controlnet`, `ip_adapter`, `image_encoder`, `redux`, `unet`, `tiny_vae`) → model."""
    speed: str = "exact"
    """One of `SPEEDS`."""
    levers: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Speed → the optimizations that it turns on (speed.py)."""
    gated: bool = False
    """Whether the Hub asks users to accept a licence first."""
    licence: str = ""
    """Licence of the weights, as their source states it."""
    parameters: float = 0.0
    """Parameters of all components, auxiliaries excluded."""
    denoiser_parameters: float = 0.0
    """Parameters of the UNet or transformer, which `fp8` stores in 8 bits."""
    facts: tuple[str, ...] = ()
    """Sources of the facts in this entry, with dates."""

    @property
    def is_local(self) -> bool:
        """Whether the weights are in a folder on this machine."""
        return Path(self.source).is_dir()

    @property
    def needs_gpu(self) -> bool:
        """Whether it is too slow for a CPU: published weights that fill a GPU."""
        return not self.is_local and self.num_gpus >= 1

    @property
    def weights_gb(self) -> float:
        """Gigabytes (1e9 bytes) of the weights in the entry's dtype."""
        return self.parameters * BYTES[self.dtype] / 1e9

    def weights_bytes(self, dtype: str) -> float:
        """Bytes of the weights in a dtype; weights that `fp8` stores in 8 bits take one byte each."""
        small = self.denoiser_parameters if self.speed == "lossy" and "fp8" in self.levers.get("lossy", ()) else 0.0
        return (self.parameters - small) * BYTES[dtype] + small

    @property
    def reference_mode(self) -> str:
        """The default reference mode; empty if references are not supported."""
        return next(iter(self.reference_modes), "")

    def recipe_revision(self, reference_mode: str = "") -> str:
        """The `revision` of a recipe: that of the weights, then those of the mode's models, then `lossy` at that speed."""
        parts = [self.revision]
        parts += [
            f"{name}@{self.auxiliaries[name].revision}"
            for name in MODE_AUXILIARIES.get(reference_mode, (reference_mode,))
            if name in self.auxiliaries
        ]
        return "+".join([*parts, "lossy"] if self.speed == "lossy" else parts)

    def recipe_fields(
        self, reference_id: str = "", reference_mode: str = "", reference_scale: float | None = None
    ) -> dict[str, Any]:
        """The fields of a `Recipe` that the generator decides.

        Args:
            reference_id: id of the reference image; empty for none.
            reference_mode: empty for the default mode.
            reference_scale: None for the mode's default scale.

        Raises:
            ValueError: the reference mode is not supported, or a mode or scale comes without a reference.
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
            raise ValueError("reference_mode and reference_scale require a reference image; give reference_id too")
        return values | {"revision": self.recipe_revision(values.get("reference_mode", ""))}

    def check_reference_mode(self, mode: str) -> None:
        """Raises ValueError if the generator does not support this reference mode."""
        if not self.reference_modes:
            raise ValueError(f"generator {self.name} does not support reference images; leave reference_id empty")
        if mode not in self.reference_modes:
            raise ValueError(
                f"generator {self.name} does not support reference_mode {mode!r}; "
                f"choose from: {', '.join(self.reference_modes)}"
            )
