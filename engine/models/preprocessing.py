"""Resizing of images for an encoder. It needs no weights, so CPU workers can do it before the encoder's device."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import torch


@dataclass(frozen=True)
class Preprocessing:
    """open_clip's resize and centre crop on uint8; the encoder normalises later."""

    size: tuple[int, int]
    """Height and width of the encoder's input in pixels."""
    resize_mode: str
    """`squash` (both sides to `size`), `shortest` (the shorter side, then crop) or `longest` (the longer side, then pad)."""
    interpolation: str
    """`bilinear`; any other value means `bicubic`, as in open_clip."""

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "Preprocessing":
        """The preprocessing of an open_clip `preprocess_cfg`."""
        size = config["size"]
        height, width = (size, size) if isinstance(size, int) else size
        return cls((int(height), int(width)), config["resize_mode"], config["interpolation"])

    def resize(self, image: "torch.Tensor") -> "torch.Tensor":
        """uint8 `[3, h, w]` of an image uint8 `[3, H, W]`, on the image's device, rounded as PIL rounds."""
        import torch
        from torchvision.transforms.v2 import functional as F

        if tuple(image.shape[-2:]) == self.size:
            return image
        bilinear = self.interpolation == "bilinear"
        mode = F.InterpolationMode.BILINEAR if bilinear else F.InterpolationMode.BICUBIC
        if self.resize_mode == "squash":
            return F.resize(image, list(self.size), interpolation=mode, antialias=True)
        shortest = self.resize_mode == "shortest"
        scale = (max if shortest else min)(self.size[0] / image.shape[-2], self.size[1] / image.shape[-1])
        # open_clip's two resizes round differently: torchvision's cuts off, its own for the longest side rounds
        target = [max(1, int(side * scale + (1e-6 if shortest else 0.5))) for side in image.shape[-2:]]
        resized = F.resize(image, target, interpolation=mode, antialias=True)
        assert isinstance(resized, torch.Tensor)
        return F.center_crop(resized, list(self.size))

    def resize_array(self, pixels: "np.ndarray") -> "np.ndarray":
        """The same for pixels uint8 `[H, W, 3]`: a contiguous uint8 array `[3, h, w]`."""
        import numpy as np
        import torch

        writable = pixels if pixels.flags.writeable else pixels.copy()  # torch warns about read-only arrays
        return np.ascontiguousarray(self.resize(torch.from_numpy(writable).permute(2, 0, 1)).numpy())
