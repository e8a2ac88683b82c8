"""CLIP-type encoders through open_clip: pixels and texts to unit-norm embeddings."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.models.faults import is_device_fault
from engine.models.precision import check_dtype, encoder_dtype
from engine.models.preprocessing import Preprocessing
from engine.models.registry import encoder_names, encoder_source
from engine.models.weights import folder_revision

if TYPE_CHECKING:
    import torch


class ImageEncoder:
    """An open_clip model with its preprocessing done on tensors, so that pixels never leave their device."""

    def __init__(
        self, source: str, name: str, model: Any, tokenizer: Any, device: str, batch_size: int, dtype: str = "float32"
    ):
        self.source = source
        """What `load_encoder` was given."""
        self.name = name
        """Name of its embeddings; for a folder it ends in a hash of the weights, so that retrained ones get a column of their own."""
        self.device = device
        self.batch_size = batch_size
        self.dtype = dtype
        """Arithmetic of the model: `float32`, `float16` or `bfloat16`. Embeddings are float32 all the same."""
        self.preprocessing = Preprocessing.from_config(model.visual.preprocess_cfg)
        """Resizes images to what the encoder reads; it can be pickled and needs no weights."""
        self._model = model
        self._tokenizer = tokenizer
        self._cfg = model.visual.preprocess_cfg
        self._normalisation: tuple[torch.Tensor, torch.Tensor] | None = None

    @property
    def dimension(self) -> int:
        """Numbers in an embedding."""
        return int(self._model.visual.output_dim)

    def encode_images(self, images: "Sequence[torch.Tensor] | torch.Tensor") -> "torch.Tensor":
        """Embeddings `[B, D]` float32, unit norm, of uint8 images: a list of `[3, H, W]` of any sizes, or a batch `[B, 3, H, W]`.

        A batch of the size in `preprocessing` is uploaded and normalised whole. Other images are resized one by one, and no
        more than `batch_size` of them at a time. Batches are padded to `batch_size`, so an embedding does not depend on how
        many come with it. The batch is halved, and stays so, when the device runs out of memory.

        Raises:
            ValueError: images that are not uint8 of three channels.
        """
        import torch

        parts: list[torch.Tensor] = []
        position = 0
        while position < len(images):
            size = self.batch_size
            try:
                batch = self._upload(images[position : position + size])
                num = len(batch)
                if num < size:
                    batch = torch.cat([batch, batch[-1:].expand(size - num, *batch.shape[1:])])
                with torch.inference_mode():
                    pixels = self._normalise(batch).to(getattr(torch, self.dtype))
                    features = self._model.encode_image(pixels).float()
            except torch.OutOfMemoryError:
                if self.batch_size == 1:
                    raise
                self.batch_size //= 2
                torch.cuda.empty_cache()
                continue
            parts.append(torch.nn.functional.normalize(features, dim=-1)[:num])
            position += num
        return torch.cat(parts) if parts else torch.zeros(0, self.dimension, device=self.device)

    @property
    def logit_scale(self) -> float:
        """What CLIP multiplies cosines with before their softmax."""
        return float(self._model.logit_scale.exp())

    def trainable_tower(self) -> "torch.nn.Module":
        """A float32 copy of the image tower `[B, 3, h, w] → [B, D]` that may be trained; its BatchNorms keep their statistics."""
        import copy

        return copy.deepcopy(self._model.visual).float().eval().requires_grad_(True)

    def prepare(self, images: "Sequence[torch.Tensor] | torch.Tensor") -> "torch.Tensor":
        """What `trainable_tower` is given, `[B, 3, h, w]` float32, for uint8 images as `encode_images` takes them."""
        return self._normalise(self._upload(images))

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Embeddings `[N, D]` float32, unit norm, of texts."""
        import torch

        parts = []
        with torch.inference_mode():
            for start in range(0, len(texts), 256):
                tokens = self._tokenizer(list(texts[start : start + 256])).to(self.device)
                parts.append(torch.nn.functional.normalize(self._model.encode_text(tokens).float(), dim=-1).cpu())
        return torch.cat(parts).numpy() if parts else np.zeros((0, self.dimension), np.float32)

    def _upload(self, images: "Sequence[torch.Tensor] | torch.Tensor") -> "torch.Tensor":
        """uint8 `[B, 3, h, w]` on the encoder's device, resized there where the images have another size."""
        import torch

        _check_images(images)
        if not isinstance(images, torch.Tensor) or tuple(images.shape[-2:]) != self.preprocessing.size:
            return torch.stack([self.preprocessing.resize(image.to(self.device)) for image in images])
        if self.device.startswith("cuda") and images.device.type == "cpu":
            # from pinned memory the copy runs beside the batch that is being computed
            return images.pin_memory().to(self.device, non_blocking=True)
        return images.to(self.device)

    def _normalise(self, batch: "torch.Tensor") -> "torch.Tensor":
        """float32 of uint8 `[B, 3, h, w]`, by the mean and deviation of each channel."""
        import torch

        if self._normalisation is None:
            shape = (1, 3, 1, 1)
            mean = torch.tensor(self._cfg["mean"], device=self.device).view(shape)
            self._normalisation = mean, torch.tensor(self._cfg["std"], device=self.device).view(shape)
        mean, std = self._normalisation
        return (batch.float() / 255 - mean) / std


def _check_images(images: "Sequence[torch.Tensor] | torch.Tensor") -> None:
    import torch

    found: Iterator[tuple[torch.Tensor, int]] = (
        iter([(images, 4)]) if isinstance(images, torch.Tensor) else ((image, 3) for image in images)
    )
    for image, num_dimensions in found:
        if image.dtype != torch.uint8 or image.ndim != num_dimensions or image.shape[-3] != 3:
            raise ValueError(
                f"an image of an encoder is {image.dtype} of shape {list(image.shape)}; give uint8 of shape [3, H, W]"
            )


def load_encoder(name: str, *, device: str = "cpu", batch_size: int = 64, dtype: str | None = None) -> ImageEncoder:
    """The encoder of this name: `mini-clip`, `ViT-B-32/openai`, or a folder of open_clip's layout.

    Args:
        name: registry name, `ARCHITECTURE/WEIGHTS` of open_clip, or folder.
        device: `cpu`, `cuda`, `cuda:1`, …
        batch_size: images that the model is given at once.
        dtype: `float32`, `float16` or `bfloat16`; None for float16 on a GPU and float32 on a processor.

    Raises:
        ValueError: unknown name or dtype; pickled, missing or unfitting weights.
    """
    import open_clip
    import torch

    dtype = encoder_dtype(device) if dtype is None else check_dtype(dtype)
    source = encoder_source(name)
    full_name = name
    if source.startswith("local-dir:"):
        architecture, weights = source, None
        folder = Path(source.removeprefix("local-dir:"))
        full_name = f"{name if name in encoder_names() else folder.name}@{folder_revision(folder)[:8]}"
    else:
        architecture, weights = source.split("/", 1)
    try:
        model = open_clip.create_model(
            architecture, pretrained=weights, device="cpu", weights_only=True, require_pretrained=True
        )
        tokenizer = open_clip.get_tokenizer(architecture)
        assert isinstance(model, torch.nn.Module)
        _cast(model, getattr(torch, dtype))
        model.to(device)
    except (RuntimeError, OSError, KeyError, ValueError) as error:
        if is_device_fault(error):
            raise
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(
            f"encoder {name!r} could not be loaded ({first_line}); check its files or your connection"
        ) from error
    model.eval().requires_grad_(False)
    return ImageEncoder(name, full_name, model, tokenizer, device, batch_size, dtype)


def _cast(model: "torch.nn.Module", dtype: "torch.dtype") -> None:
    """Casts float32 weights in place, all but the statistics of BatchNorms and the scale of the logits.

    open_clip's own `fp16` leaves the queries of attention pools (CoCa) in float32, which then meet float16 weights. Its
    `pure_fp16` runs everywhere, but a variance above 65504 becomes infinite, and the scale of the logits is off by up to 1.5 %.
    """
    import torch

    for module in model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            continue
        tensors = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
        for name, tensor in tensors:
            if tensor.is_floating_point() and name not in ("logit_scale", "logit_bias"):
                tensor.data = tensor.data.to(dtype)
