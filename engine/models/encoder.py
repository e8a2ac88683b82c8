"""CLIP-type encoders through open_clip: pixels and texts to unit-norm embeddings."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.models.registry import encoder_names, encoder_source
from engine.models.weights import folder_revision

if TYPE_CHECKING:
    import torch


class ImageEncoder:
    """An open_clip model with its preprocessing done on tensors, so that pixels never leave their device."""

    def __init__(self, source: str, name: str, model: Any, tokenizer: Any, device: str, batch_size: int):
        self.source = source
        """What `load_encoder` was given."""
        self.name = name
        """Name of its embeddings; for a folder it ends in a hash of the weights, so that retrained ones get a column of their own."""
        self.device = device
        self.batch_size = batch_size
        self._model = model
        self._tokenizer = tokenizer
        cfg = model.visual.preprocess_cfg
        size = cfg["size"]
        self._size: tuple[int, int] = (size, size) if isinstance(size, int) else tuple(size)
        self._cfg = cfg
        self._dtype = next(model.parameters()).dtype
        self._normalisation: tuple[torch.Tensor, torch.Tensor] | None = None

    @property
    def dimension(self) -> int:
        """Numbers in an embedding."""
        return int(self._model.visual.output_dim)

    def encode_images(self, images: "Sequence[torch.Tensor] | torch.Tensor") -> "torch.Tensor":
        """Embeddings `[B, D]` float32, unit norm, of uint8 images `[3, H, W]` (a batch, or a list of any sizes).

        Batches are padded to `batch_size`, so an embedding does not depend on how many come with it. The batch is halved,
        and stays so, when the device runs out of memory.
        """
        import torch

        prepared = torch.stack([self._resize(image) for image in images])
        parts: list[torch.Tensor] = []
        position = 0
        while position < len(prepared):
            batch = prepared[position : position + self.batch_size]
            num = len(batch)
            if num < self.batch_size:
                batch = torch.cat([batch, batch[-1:].expand(self.batch_size - num, *batch.shape[1:])])
            try:
                with torch.inference_mode():
                    features = self._model.encode_image(self._normalise(batch)).float()
            except torch.OutOfMemoryError:
                if self.batch_size == 1:
                    raise
                self.batch_size //= 2
                torch.cuda.empty_cache()
                continue
            parts.append(torch.nn.functional.normalize(features, dim=-1)[:num])
            position += num
        return torch.cat(parts)

    @property
    def logit_scale(self) -> float:
        """What CLIP multiplies cosines with before their softmax."""
        return float(self._model.logit_scale.exp())

    def trainable_tower(self) -> "torch.nn.Module":
        """A float32 copy of the image tower `[B, 3, h, w] → [B, D]` that may be trained; its BatchNorms keep their statistics."""
        import copy

        return copy.deepcopy(self._model.visual).float().eval().requires_grad_(True)

    def prepare(self, images: "Sequence[torch.Tensor]") -> "torch.Tensor":
        """What the tower is given, `[B, 3, h, w]`, for uint8 images `[3, H, W]` of any sizes."""
        import torch

        return self._normalise(torch.stack([self._resize(image) for image in images]))

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Embeddings `[N, D]` float32, unit norm, of texts."""
        import torch

        parts = []
        with torch.inference_mode():
            for start in range(0, len(texts), 256):
                tokens = self._tokenizer(list(texts[start : start + 256])).to(self.device)
                parts.append(torch.nn.functional.normalize(self._model.encode_text(tokens).float(), dim=-1).cpu())
        return torch.cat(parts).numpy() if parts else np.zeros((0, self.dimension), np.float32)

    def _resize(self, image: "torch.Tensor") -> "torch.Tensor":
        """open_clip's resize and centre crop of one uint8 `[3, H, W]` to `[3, h, w]`, kept uint8 as PIL keeps it."""
        import torch
        from torchvision.transforms.v2 import functional as F

        image = image.to(self.device)
        if tuple(image.shape[-2:]) == self._size:
            return image
        modes = {"bicubic": F.InterpolationMode.BICUBIC, "bilinear": F.InterpolationMode.BILINEAR}
        mode = modes.get(self._cfg["interpolation"], F.InterpolationMode.BICUBIC)
        if self._cfg["resize_mode"] == "squash":
            return F.resize(image, list(self._size), interpolation=mode, antialias=True)
        shortest = self._cfg["resize_mode"] == "shortest"
        scale = (max if shortest else min)(self._size[0] / image.shape[-2], self._size[1] / image.shape[-1])
        # open_clip's two resizes round differently: torchvision's cuts off, its own for the longest side rounds
        target = [max(1, int(side * scale + (1e-6 if shortest else 0.5))) for side in image.shape[-2:]]
        resized = F.resize(image, target, interpolation=mode, antialias=True)
        assert isinstance(resized, torch.Tensor)
        return F.center_crop(resized, list(self._size))

    def _normalise(self, batch: "torch.Tensor") -> "torch.Tensor":
        import torch

        if self._normalisation is None:
            shape = (1, 3, 1, 1)
            mean = torch.tensor(self._cfg["mean"], device=self.device).view(shape)
            self._normalisation = mean, torch.tensor(self._cfg["std"], device=self.device).view(shape)
        mean, std = self._normalisation
        return ((batch.float() / 255 - mean) / std).to(self._dtype)


def load_encoder(name: str, *, device: str = "cpu", batch_size: int = 64) -> ImageEncoder:
    """The encoder of this name: `mini-clip`, `ViT-B-32/openai`, or a folder of open_clip's layout.

    Raises:
        ValueError: unknown name; pickled, missing or unfitting weights.
    """
    import open_clip
    import torch

    source = encoder_source(name)
    full_name = name
    precision = "fp16" if device.startswith("cuda") else "fp32"
    if source.startswith("local-dir:"):
        architecture, weights = source, None
        folder = Path(source.removeprefix("local-dir:"))
        full_name = f"{name if name in encoder_names() else folder.name}@{folder_revision(folder)[:8]}"
    else:
        architecture, weights = source.split("/", 1)
    try:
        model = open_clip.create_model(
            architecture,
            pretrained=weights,
            precision=precision,
            device=device,
            weights_only=True,
            require_pretrained=True,
        )
        tokenizer = open_clip.get_tokenizer(architecture)
    except (RuntimeError, OSError, KeyError, ValueError) as error:
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(
            f"encoder {name!r} could not be loaded ({first_line}); check its files or your connection"
        ) from error
    model.eval().requires_grad_(False)
    assert isinstance(model, torch.nn.Module)
    return ImageEncoder(name, full_name, model, tokenizer, device, batch_size)
