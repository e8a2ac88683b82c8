"""CLIP encoders through open_clip: images and texts to unit-norm embeddings."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.gc_pause import gc_paused
from engine.models.loading_errors import loading_errors
from engine.models.precision import check_dtype, encoder_dtype
from engine.models.preprocessing import Preprocessing
from engine.models.registry import embedding_name, encoder_source

if TYPE_CHECKING:
    import torch


BATCH_SIZES = {"cpu": 64, "cuda": 256}
"""Images per forward pass by type of device. On an H100, ViT-B/32 makes 14,000 images/s in batches of 64, 30,300 in batches of
256 and 31,300 in batches of 1,024 (benchmarks/results)."""


class ImageEncoder:
    """An open_clip model. Its preprocessing works on tensors, so pixels never leave their device."""

    def __init__(
        self, source: str, name: str, model: Any, tokenizer: Any, device: str, batch_size: int, dtype: str = "float32"
    ):
        self.source = source
        """Argument of `load_encoder`."""
        self.name = name
        """Name of its embeddings (`embedding_name`)."""
        self.device = device
        self.batch_size = batch_size
        self.dtype = dtype
        """Arithmetic of the model: `float32`, `float16` or `bfloat16`. Embeddings are always float32."""
        self.preprocessing = Preprocessing.from_config(model.visual.preprocess_cfg)
        """Resizes images to the encoder's input; it can be pickled and needs no weights."""
        self._model = model
        self._tokenizer = tokenizer
        self._cfg = model.visual.preprocess_cfg
        self._normalisation: tuple[torch.Tensor, torch.Tensor] | None = None
        self._stream: torch.cuda.Stream | None = None

    @property
    def dimension(self) -> int:
        """Length of an embedding."""
        return int(self._model.visual.output_dim)

    def encode_images(self, images: "Sequence[torch.Tensor] | torch.Tensor") -> "torch.Tensor":
        """Embeddings `[B, D]` float32, unit norm, of uint8 images: a list of `[3, H, W]` of any sizes, or a batch `[B, 3, H, W]`.

        Images of one size are uploaded and resized together. Batches are padded to `batch_size`, so an embedding does not depend
        on the number of images. On a GPU the upload of a batch overlaps with the computation of the one before. `batch_size` is
        halved for good when the device runs out of memory.

        Raises:
            ValueError: an image is not uint8 with three channels.
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
        """Factor of the cosines before the softmax, CLIP's inverse temperature."""
        return float(self._model.logit_scale.exp())

    def trainable_tower(self) -> "torch.nn.Module":
        """A trainable float32 copy of the image tower `[B, 3, h, w] → [B, D]`; its BatchNorms keep their statistics."""
        import copy

        return copy.deepcopy(self._model.visual).float().eval().requires_grad_(True)

    def prepare(self, images: "Sequence[torch.Tensor] | torch.Tensor") -> "torch.Tensor":
        """Input of `trainable_tower`, `[B, 3, h, w]` float32, for uint8 images as `encode_images` takes them."""
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
        """uint8 `[B, 3, h, w]` on the encoder's device, resized there if the images have another size."""
        import torch

        _check_images(images)
        if isinstance(images, torch.Tensor):
            return self.preprocessing.resize(self._to_device(images))
        return self.preprocessing.resize_all(images, self._to_device)

    def _to_device(self, images: "Sequence[torch.Tensor] | torch.Tensor") -> "torch.Tensor":
        """uint8 `[B, 3, H, W]` on the encoder's device, of images of one size."""
        import torch

        is_on_host = images[0].device.type == "cpu"
        if not (self.device.startswith("cuda") and is_on_host):
            whole = images if isinstance(images, torch.Tensor) else torch.stack(list(images))
            return whole.to(self.device)
        # a copy from pinned memory on a stream of its own overlaps with the computation of the previous batch
        pinned = torch.empty(len(images), *images[0].shape, dtype=torch.uint8, pin_memory=True)
        if isinstance(images, torch.Tensor):
            pinned.copy_(images)
        else:
            torch.stack(list(images), out=pinned)
        if self._stream is None:
            self._stream = torch.cuda.Stream(self.device)
        computing = torch.cuda.current_stream(self.device)
        with torch.cuda.stream(self._stream):
            whole = pinned.to(self.device, non_blocking=True)
        computing.wait_stream(self._stream)
        whole.record_stream(computing)
        return whole

    def _normalise(self, batch: "torch.Tensor") -> "torch.Tensor":
        """float32 of uint8 `[B, 3, h, w]`, normalised by mean and standard deviation per channel."""
        import torch

        if self._normalisation is None:
            shape = (1, 3, 1, 1)
            mean = torch.tensor(self._cfg["mean"], device=self.device).view(shape)
            self._normalisation = mean, torch.tensor(self._cfg["std"], device=self.device).view(shape)
        mean, std = self._normalisation
        if self.device.startswith("cuda"):  # one pass over memory instead of three; differs in the last bit
            return torch.addcmul(-mean / std, batch.float(), 1 / (255 * std))
        return (batch.float() / 255 - mean) / std


def _check_images(images: "Sequence[torch.Tensor] | torch.Tensor") -> None:
    import torch

    found: Iterator[tuple[torch.Tensor, int]] = (
        iter([(images, 4)]) if isinstance(images, torch.Tensor) else ((image, 3) for image in images)
    )
    for image, num_dimensions in found:
        if image.dtype != torch.uint8 or image.ndim != num_dimensions or image.shape[-3] != 3:
            raise ValueError(
                f"an image for the encoder is {image.dtype} of shape {list(image.shape)}; give uint8 of shape [3, H, W]"
            )


def default_batch_size(device: str) -> int:
    """Images per forward pass on a torch device."""
    return BATCH_SIZES["cuda" if device.startswith("cuda") else "cpu"]


@gc_paused()
def load_encoder(
    name: str, *, device: str = "cpu", batch_size: int | None = None, dtype: str | None = None
) -> ImageEncoder:
    """Loads an encoder, such as `mini-clip` or `ViT-B-32/openai`.

    Args:
        name: registry name, open_clip pair `ARCHITECTURE/WEIGHTS`, or folder of open_clip's layout.
        device: `cpu`, `cuda`, `cuda:1`, …
        batch_size: images per forward pass; None for the device's own number.
        dtype: `float32`, `float16` or `bfloat16`; None for float16 on a GPU and float32 on a CPU.

    Raises:
        ValueError: unknown name or dtype; weights that are pickled, missing or do not fit the architecture.
    """
    import open_clip
    import torch

    dtype = encoder_dtype(device) if dtype is None else check_dtype(dtype)
    source = encoder_source(name)
    full_name = embedding_name(name)
    architecture, weights = (source, None) if source.startswith("local-dir:") else source.split("/", 1)
    with loading_errors("encoder", name):
        model = open_clip.create_model(
            architecture, pretrained=weights, device="cpu", weights_only=True, require_pretrained=True
        )
        tokenizer = open_clip.get_tokenizer(architecture)
        assert isinstance(model, torch.nn.Module)
        _cast(model, getattr(torch, dtype))
        model.to(device)
        if device == "cpu" and any(isinstance(module, torch.nn.BatchNorm2d) for module in model.modules()):
            # a ResNet takes 1.2 (RN50) to 1.5 times (mini-clip) as long in the other layout; embeddings differ by 2e-7 at most
            model.visual.to(memory_format=torch.channels_last)
    model.eval().requires_grad_(False)
    return ImageEncoder(name, full_name, model, tokenizer, device, batch_size or default_batch_size(device), dtype)


def _cast(model: "torch.nn.Module", dtype: "torch.dtype") -> None:
    """Casts float32 weights in place, except the statistics of BatchNorms and the scale of the logits.

    open_clip's own `fp16` leaves the queries of attention pools (CoCa) in float32, which fail with float16 weights. Its
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
