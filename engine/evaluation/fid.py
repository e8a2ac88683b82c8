"""Fréchet distance of images: FID with Inception weights from a file, or the same distance of an encoder's features."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from engine.evaluation.features import Array, as_features, same_dimension

INCEPTION_SIZE = 299
"""Edge of Inception's input, pixels."""
INCEPTION_CLASSES = 1008
"""Outputs of the Inception that FID is defined by; torchvision's own has 1000."""
NUM_FEATURES = 2048
"""Length of Inception's features."""
GPU_BATCH = 32
"""Images that a GPU processes at once."""


@dataclass(frozen=True, slots=True)
class FidScore:
    """A Fréchet distance and the features it is computed from."""

    fid: float
    """Distance of two Gaussians, 0 or more; only distances of the same features are comparable."""
    features: str
    """Network of the features: `inception/FILE` (the FID of the literature) or the name of an encoder."""
    num_real: int
    """Test images."""
    num_images: int
    """Judged images."""


def fid_score(real_features: Array, features: Array, *, of: str) -> FidScore:
    """Fréchet distance between features of test images `[N, D]` and of judged images `[M, D]`; `of` names their network.

    Covariances of fewer than D images are singular, which makes the distance too large: compare equal numbers only. Raises
    ValueError for non-finite features, fewer than two images or shapes that do not fit together.
    """
    from torchmetrics.image.fid import FrechetInceptionDistance

    real, images = as_features(real_features, "real_features"), as_features(features)
    same_dimension(real, images, "real_features", "features")
    for name, rows in (("real_features", real), ("features", images)):
        if len(rows) < 2:
            raise ValueError(f"{name} has one row, which has no covariance; give at least two images")
    already = torch.nn.Identity()
    already.num_features = real.shape[1]
    distance = FrechetInceptionDistance(feature=already).to(real.device)
    distance.update(real, real=True)
    distance.update(images.to(real.device), real=False)
    return FidScore(max(0.0, float(distance.compute())), of, len(real), len(images))


def check_inception(weights: Path) -> None:
    """Reads the header of a weights file.

    Raises:
        ValueError: the file is missing, not safetensors, or of another network.
    """
    from safetensors import SafetensorError, safe_open

    if weights.suffix != ".safetensors":
        raise ValueError(
            f"{weights} is not a safetensors file; convert it once with safetensors.torch.save_file(torch.load(path, weights_only=True), …)"
        )
    try:
        with safe_open(weights, framework="pt") as file:
            found = {name: file.get_slice(name).get_shape() for name in file.keys() if _has_effect(name)}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise ValueError(f"Inception weights {weights} cannot be read ({error}); give another file") from None
    with torch.device("meta"):
        state = _network().state_dict()
    expected = {name: list(tensor.shape) for name, tensor in state.items() if _has_effect(name)}
    if found != expected:
        raise ValueError(
            f"{weights} is not the Inception of FID (pt_inception-2015-12-05, {INCEPTION_CLASSES} outputs); give that one"
        )


class Inception:
    """Features `[N, 2048] float32` of images, as in the definition of FID: the network of 2015, float32, TensorFlow's resizing."""

    def __init__(self, weights: Path, device: str = "cpu"):
        """Reads the network of the file `pt_inception-2015-12-05` saved as safetensors.

        Raises:
            ValueError: as `check_inception` does.
        """
        from safetensors.torch import load_file

        check_inception(weights)
        network = _network()
        network.load_state_dict(load_file(weights))
        _pool_as_tensorflow(network)
        network.fc = torch.nn.Identity()
        self._network = network.to(device).eval().requires_grad_(False)
        self._device = device
        # a processor's rounding depends on the size of a batch
        self._batch_size = 1 if device == "cpu" else GPU_BATCH

    @torch.inference_mode()
    def __call__(self, images: Sequence[torch.Tensor] | torch.Tensor) -> torch.Tensor:
        """Features of uint8 images: a list of `[3, H, W]` of any sizes, or a batch `[N, 3, H, W]`.

        Batches are padded to one size, so that the features of an image do not depend on the others.
        """
        parts = [torch.zeros(0, NUM_FEATURES, device=self._device)]
        for start in range(0, len(images), self._batch_size):
            batch = torch.stack([self._resized(image) for image in images[start : start + self._batch_size]])
            num = len(batch)
            padding = batch[-1:].expand(self._batch_size - num, *batch.shape[1:])
            parts.append(self._network((torch.cat([batch, padding]) - 128) / 128)[:num])
        return torch.cat(parts)

    def _resized(self, image: torch.Tensor) -> torch.Tensor:
        if image.dtype != torch.uint8 or image.ndim != 3 or image.shape[0] != 3:
            raise ValueError(f"an image is {image.dtype} of shape {tuple(image.shape)}; give [3, H, W] uint8")
        pixels = image[None].to(self._device, torch.float32)
        for dim in (2, 3):
            pixels = _resize_as_tensorflow(pixels, dim)
        return pixels[0]


def _has_effect(name: str) -> bool:
    """Whether a tensor changes features; old files lack the counters of batches, which serve training alone."""
    return not name.endswith("num_batches_tracked")


def _network() -> torch.nn.Module:
    from torchvision.models import Inception3

    return Inception3(num_classes=INCEPTION_CLASSES, aux_logits=False, init_weights=False)


def _resize_as_tensorflow(pixels: torch.Tensor, dim: int) -> torch.Tensor:
    """Linear to Inception's size along one dimension, with TensorFlow 1's grid: sample i lies at `i * old / new`."""
    old = pixels.shape[dim]
    places = torch.arange(INCEPTION_SIZE, device=pixels.device) * (old / INCEPTION_SIZE)
    low = places.floor().long().clamp(max=old - 1)
    high = (low + 1).clamp(max=old - 1)
    shape = [1, 1, 1, 1]
    shape[dim] = INCEPTION_SIZE
    return torch.lerp(pixels.index_select(dim, low), pixels.index_select(dim, high), (places - low).float().view(shape))


def _pool_as_tensorflow(network: torch.nn.Module) -> None:
    """Turns torchvision's network into that of 2015: means that leave out the padding, and a maximum in the last block."""
    for name, block in network.named_children():
        pool = getattr(block, "branch_pool", None)  # blocks that shrink the image have none
        if not isinstance(pool, torch.nn.Module):
            continue
        if name == "Mixed_7c":
            block.register_forward_pre_hook(_remember_maximum)
            pool.register_forward_pre_hook(_take_maximum(block))
        else:
            pool.register_forward_pre_hook(_leave_padding_out)


def _leave_padding_out(module: torch.nn.Module, inputs: tuple[torch.Tensor]) -> torch.Tensor:
    """Divides a 3 x 3 mean by the pixels inside the image instead of by 9, which would count the zeros around it."""
    (pooled,) = inputs
    there = torch.nn.functional.avg_pool2d(torch.ones_like(pooled[:1, :1]), 3, stride=1, padding=1)
    return pooled / there


def _remember_maximum(block: torch.nn.Module, inputs: tuple[torch.Tensor]) -> None:
    block.maximum = torch.nn.functional.max_pool2d(inputs[0], 3, stride=1, padding=1)


def _take_maximum(
    block: torch.nn.Module,
) -> Callable[[torch.nn.Module, tuple[torch.Tensor]], torch.Tensor]:
    def take(module: torch.nn.Module, inputs: tuple[torch.Tensor]) -> torch.Tensor:
        maximum = block.maximum
        assert isinstance(maximum, torch.Tensor)
        return maximum

    return take
