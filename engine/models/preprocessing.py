"""Resizing of images for an encoder. It needs no weights, so CPU workers can do it before the encoder's device."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import torch

RESIZED_BYTES = 128 << 20
"""Bytes of images of one size that are resized together."""


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
        """uint8 `[..., 3, h, w]` of images uint8 `[..., 3, H, W]`, on their device, rounded as PIL rounds.

        On a GPU by `resize_by_products`, from whose pixels those of a processor differ by two levels at most.
        """
        import torch
        from torchvision.transforms.v2 import functional as F

        if tuple(image.shape[-2:]) == self.size:
            return image
        if image.device.type == "cuda" and self.resize_mode != "longest":
            return self.resize_by_products(image)
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

    def resize_all(
        self,
        images: "Sequence[torch.Tensor]",
        batch_of: "Callable[[Sequence[torch.Tensor]], torch.Tensor] | None" = None,
    ) -> "torch.Tensor":
        """`resize` of images `[3, H, W]` of any sizes, those of one size together: uint8 `[N, 3, h, w]`, in their order.

        `batch_of` makes a batch `[B, 3, H, W]` of images of one size, on the device that resizes; `torch.stack` if not given.
        """
        import torch

        together = batch_of or (lambda some: torch.stack(list(some)))
        sizes: dict[torch.Size, list[int]] = {}
        for number, image in enumerate(images):
            sizes.setdefault(image.shape, []).append(number)
        at_once = {size: max(1, RESIZED_BYTES // size.numel()) for size in sizes}
        resized = [
            self.resize(together([images[row] for row in rows[start : start + at_once[size]]]))
            for size, rows in sizes.items()
            for start in range(0, len(rows), at_once[size])
        ]
        batch = torch.cat(resized)
        if len(sizes) == 1:
            return batch
        order = torch.tensor([row for rows in sizes.values() for row in rows])
        return batch[order.argsort().to(batch.device)]

    def resize_by_products(self, images: "torch.Tensor") -> "torch.Tensor":
        """`resize` of images uint8 `[..., 3, H, W]` as two matrix products, for the modes `squash` and `shortest`.

        An antialiased resize is linear in the pixels: columns, then rows, are multiplied by weights, of those that the crop keeps.
        On a GPU the factors are float16 and the sums float32. All factors and sums are exact there (`resize_weights`), so an image
        gives the same pixels in any batch. With float16 sums it took a third of the time of torchvision's kernel on an H100
        (benchmarks/results/2026-11-27-gpu.md).
        """
        import torch

        target = self.size
        if self.resize_mode == "shortest":
            scale = max(side / have for side, have in zip(self.size, images.shape[-2:], strict=True))
            height, width = (max(1, int(have * scale + 1e-6)) for have in images.shape[-2:])
            target = height, width
        bilinear, device = self.interpolation == "bilinear", str(images.device)
        rows, columns = (
            resize_weights(have, to, side, bilinear, device)
            for have, to, side in zip(images.shape[-2:], target, self.size, strict=True)
        )
        dtype = rows.dtype
        exact = {"out_dtype": torch.float32} if dtype == torch.float16 else {}
        flat = images.reshape(-1, images.shape[-1]).to(dtype)
        across = torch.mm(flat, columns.T, **exact).round_().clamp_(0, 255).to(dtype)  # as PIL does between its passes
        across = across.view(-1, images.shape[-2], self.size[1])
        down = torch.bmm(rows.expand(len(across), -1, -1), across, **exact).round_().clamp_(0, 255)
        return down.to(torch.uint8).view(*images.shape[:-2], *self.size)

    def resize_array(self, pixels: "np.ndarray") -> "np.ndarray":
        """The same for pixels uint8 `[H, W, 3]`: a contiguous uint8 array `[3, h, w]`."""
        import numpy as np
        import torch

        writable = pixels if pixels.flags.writeable else pixels.copy()  # torch warns about read-only arrays
        return np.ascontiguousarray(self.resize(torch.from_numpy(writable).permute(2, 0, 1)).numpy())


@lru_cache(maxsize=256)
def resize_weights(length: int, target: int, kept: int, bilinear: bool, device: str = "cpu") -> "torch.Tensor":
    """`[kept, length]` weights, float32 or on a GPU float16, of an antialiased resize from `length` to `target` pixels, of the `kept` in the centre.

    They are what torch makes of the identity, rounded to float16 and to multiples of 2^-14. So each is exact in float16, its product with
    a level 0 to 255 has at most 22 bits, and a float32 holds any sum of such products (24 bits) whatever their order.
    """
    import torch
    from torch.nn.functional import interpolate

    identity = torch.eye(length, dtype=torch.float64)[None, None]
    mode = "bilinear" if bilinear else "bicubic"
    weights = interpolate(identity, (target, length), mode=mode, antialias=True, align_corners=False)[0, 0]
    first = round((target - kept) / 2.0)
    weights = (weights[first : first + kept].half().float() * 2**14).round() / 2**14
    return weights.to(device, torch.float16 if device.startswith("cuda") else torch.float32)
