"""What is common to all ways of speaking to a pipeline: its text, its guidance, and how a reference image enters it."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from engine.models.prompt_weights import read_weights, takes_weights
from engine.models.references import canny, fit
from engine.recipe import Recipe

if TYPE_CHECKING:
    import torch

Embeddings = dict[str, "torch.Tensor"]


class Family:
    """A pipeline with classifier-free guidance and precomputed prompt embeddings; the others change what differs."""

    home: ClassVar[str] = "diffusers"
    """Module that holds its pipeline class."""
    denoiser_name: ClassVar[str] = "transformer"
    """Component that runs at every step."""
    pipelines: ClassVar[Mapping[str, str]] = {}
    """Reference mode → the class in diffusers that runs it with this pipeline's own parts, or `` for this pipeline itself."""
    own_modes: ClassVar[tuple[str, ...]] = ("img2img",)
    """Reference modes that need no other model, the best first."""
    controlnet_model: ClassVar[str] = ""
    """Class of its ControlNets in diffusers."""
    control_argument: ClassVar[str] = "control_image"
    """What its ControlNet pipeline calls the edges."""
    dtypes: ClassVar[tuple[str, ...]] = ("float32", "float16", "bfloat16")
    """Arithmetic that its library can compute in."""
    needs_reference: ClassVar[bool] = False
    """Whether it draws nothing without a reference."""
    max_batch: ClassVar[int | None] = None
    """Images it can make at once, where the library sets a limit."""
    native_scale: ClassVar[bool] = False
    """Whether a native reference has a scale; without one, only 1 can be asked for."""

    def __init__(self, name: str, pipeline: Any, device: str):
        self.name = name
        self.pipeline = pipeline
        self.device = device

    @classmethod
    def check_available(cls, name: str, is_local: bool) -> None:
        """Raises ValueError, one sentence, where a package or weights are missing that no download brings."""

    @property
    def denoiser(self) -> Any:
        """The UNet or transformer."""
        return getattr(self.pipeline, self.denoiser_name)

    @property
    def multiple_of(self) -> int:
        """Heights and widths are multiples of it."""
        return int(self.pipeline.image_processor.config.vae_scale_factor)

    @property
    def takes_negative_prompts(self) -> bool:
        """Whether the model can be steered away from a text."""
        return True

    def guided(self, recipe: Recipe) -> bool:
        """Whether the negative prompt is looked at."""
        return recipe.guidance_scale > 1

    def check(self, recipe: Recipe) -> None:
        """Raises ValueError, one sentence, for what the pipeline would drop or change without a word."""
        for prompt in (recipe.prompt, recipe.negative_prompt):
            if not read_weights(prompt).is_plain and not takes_weights(self.pipeline):
                raise ValueError(
                    f"generator {self.name} takes no weights in its prompts; leave the brackets out, or write \\( and \\) for them as text"
                )
        if recipe.negative_prompt and not self.takes_negative_prompts:
            raise ValueError(f"generator {self.name} takes no negative prompt; leave it empty")
        if recipe.negative_prompt and not self.guided(recipe):
            raise ValueError(
                f"a negative prompt has no effect at guidance_scale {recipe.guidance_scale}; raise it above 1"
            )
        for side in (recipe.height, recipe.width):
            if side < 1 or side % self.multiple_of:
                raise ValueError(
                    f"generator {self.name} draws {self.multiple_of} pixels at a time, and {side} is no multiple of it; "
                    f"give {max(1, round(side / self.multiple_of)) * self.multiple_of}"
                )

    def batch_key(self, recipe: Recipe, mode: str) -> Hashable:
        """What besides steps, guidance, size and reference mode must be equal in a batch."""
        return None

    def encode(self, prompt: str) -> Embeddings:
        """Arguments of the call for one prompt, each without its batch dimension."""
        raise NotImplementedError

    def check_length(self, prompt: str, tokenizer: Any, limit: int) -> None:
        """Raises ValueError for a prompt whose end the text encoder would never see."""
        found = len(tokenizer(prompt).input_ids)
        if found > limit:
            raise ValueError(f"the prompt has {found} tokens and generator {self.name} reads {limit}; shorten it")

    def encode_negative(self, prompt: str) -> Embeddings:
        """The same for a negative prompt; `` stands for none."""
        return {f"negative_{name}": value for name, value in self.encode(prompt).items()}

    def text(self, recipes: Sequence[Recipe], cache: "PromptCache", mode: str) -> dict[str, Any]:
        """Arguments for the prompts, and for the negative ones where they count."""
        arguments = cache.stack(self.encode, [self.written(recipe.prompt) for recipe in recipes])
        return arguments | self.negative_text(recipes, cache)

    def negative_text(self, recipes: Sequence[Recipe], cache: "PromptCache") -> Embeddings:
        """Arguments for the negative prompts; none where they do not count."""
        if not self.guided(recipes[0]):
            return {}
        return cache.stack(self.encode_negative, [self.written(recipe.negative_prompt) for recipe in recipes])

    def written(self, prompt: str) -> str:
        """The prompt as `encode` takes it: with its weights (prompt_weights.py) where the pipeline takes any, else as plain text."""
        return prompt if takes_weights(self.pipeline) else read_weights(prompt).text

    def sampling(self, recipe: Recipe) -> dict[str, Any]:
        """Arguments for steps, guidance and size."""
        return {
            "num_inference_steps": recipe.num_inference_steps,
            "guidance_scale": recipe.guidance_scale,
            "height": recipe.height,
            "width": recipe.width,
        }

    def refer(
        self, arguments: dict[str, Any], mode: str, images: Sequence[np.ndarray], recipe: Recipe, parts: "Parts"
    ) -> None:
        """Adds the references to the arguments; `recipe` says scale and size, `parts` has what was loaded for the mode."""
        scale, size = recipe.reference_scale, (recipe.height, recipe.width)
        if mode == "controlnet":
            nothing, edge = parts.edge_range
            seen = batch_of([_SHOWN[parts.preprocessor](np.asarray(fit(image, *size))) for image in images])
            arguments[self.control_argument] = seen * (edge - nothing) + nothing
            arguments["controlnet_conditioning_scale"] = scale
        elif mode == "img2img":
            arguments["image"] = batch_of([np.asarray(fit(image, *size)) for image in images]) / 255
            arguments["strength"] = 1 - scale
        elif mode == "ip_adapter":
            self._adapt(arguments, images, recipe)
        else:
            raise AssertionError(f"{type(self).__name__} has no reference mode {mode}")

    def _adapt(self, arguments: dict[str, Any], images: Sequence[np.ndarray], recipe: Recipe) -> None:
        """IP-Adapter: each image's own embedding. The pipelines would give a whole batch all of its references
        (diffusers#9813), so they are handed embeddings that are ready, `[B, 1, D]`, and kept from repeating them."""
        embeddings = self._image_embeddings(images)
        self.pipeline.set_ip_adapter_scale(recipe.reference_scale)
        self.pipeline.prepare_ip_adapter_image_embeds = lambda images, embeddings, *rest: embeddings
        arguments["ip_adapter_image_embeds"] = [_guided(embeddings) if self.guided(recipe) else embeddings]

    def _image_embeddings(self, images: Sequence[np.ndarray]) -> "torch.Tensor":
        """`[B, 1, D]`; one image at a time, so that none depends on its companions."""
        import torch
        from PIL import Image

        rows = [self.pipeline.encode_image(Image.fromarray(image), self.device, 1) for image in images]
        return torch.stack([row[0] if isinstance(row, tuple) else row for row in rows])


class Parts(SimpleNamespace):
    """What a reference mode has loaded: `preprocessor` and `edge_range` of a ControlNet, `redux` the prior."""


class PromptCache:
    """Embeddings of prompts, each computed once and alone: a text encoder's arithmetic may depend on how many texts it is given."""

    def __init__(self, max_bytes: int = 1 << 30):
        self.max_bytes = max_bytes
        self._found: dict[tuple[str, str], Embeddings] = {}
        self._bytes = 0

    def stack(self, encode: Any, prompts: Sequence[str]) -> Embeddings:
        """Arguments of the call for a batch of prompts, `[B, …]` each; the ones not used for longest are forgotten."""
        import torch

        rows = []
        for prompt in prompts:
            key = encode.__name__, prompt
            found = self._found.pop(key, None)
            if found is None:
                found = encode(prompt)
                self._bytes += _bytes(found)
            self._found[key] = found  # the newest stands last
            rows.append(found)
        while self._bytes > self.max_bytes and len(self._found) > 1:
            self._bytes -= _bytes(self._found.pop(next(iter(self._found))))
        return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


def _bytes(embeddings: Embeddings) -> int:
    return sum(value.numel() * value.element_size() for value in embeddings.values())


def batch_of(images: Sequence[np.ndarray]) -> "torch.Tensor":
    """`[B, 3, H, W]` float32 of `[H, W, 3]` arrays."""
    import torch

    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float()


def _guided(embeddings: "torch.Tensor") -> "torch.Tensor":
    """Zeros for the unconditional half, then the embeddings."""
    import torch

    return torch.cat([torch.zeros_like(embeddings), embeddings])


_SHOWN: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    "canny": lambda image: canny(image)[..., None].repeat(3, 2).astype(np.float32),
    "none": lambda image: image.astype(np.float32) / 255,
}
"""A ControlNet's preprocessor → what it is shown of a reference, `[H, W, 3]` in 0…1."""
