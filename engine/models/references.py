"""Reference images as inputs of generators: cropped to a size, or as edges. Plain numpy and PIL, equal on every machine."""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL import Image


def check_reference(image: np.ndarray) -> None:
    """Raises ValueError unless `image` is uint8 `[H, W, 3]` with at least one pixel."""
    if not (isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3):
        shape = f"{image.dtype} {list(image.shape)}" if isinstance(image, np.ndarray) else type(image).__name__
        raise ValueError(f"a reference image is {shape}; give uint8 of shape [H, W, 3]")
    if not image.size:
        raise ValueError("a reference image has no pixels; give another one")


def fit(image: np.ndarray, height: int, width: int) -> "Image.Image":
    """`image` (uint8 `[H, W, 3]`), scaled to cover `height` x `width` pixels and cropped to its middle.

    The proportions are kept, and equal sizes let references of any shape share a batch.
    """
    from PIL import Image

    scale = max(height / image.shape[0], width / image.shape[1])
    size = max(width, round(image.shape[1] * scale)), max(height, round(image.shape[0] * scale))
    left, top = (size[0] - width) / 2, (size[1] - height) / 2
    # only the cropped part is resampled: a 1 x 10,000 image never becomes a huge one in between
    box = left / size[0], top / size[1], (left + width) / size[0], (top + height) / size[1]
    rows, columns = image.shape[:2]
    return Image.fromarray(image).resize(
        (width, height),
        Image.Resampling.LANCZOS,
        box=(box[0] * columns, box[1] * rows, box[2] * columns, box[3] * rows),
    )


def canny(image: np.ndarray, low: float = 100, high: float = 200) -> np.ndarray:
    """Edges `[H, W]` bool of uint8 `[H, W, 3]` (Canny 1986), as in the training of ControlNets.

    Sobel gradients without smoothing, from the colour channel where they are strongest, with the sum of their absolute
    values as strength, as OpenCV's `Canny(image, low, high)` computes them.
    """
    padded = np.pad(image.astype(np.int32), ((1, 1), (1, 1), (0, 0)), mode="edge")
    rows = padded[:-2] + 2 * padded[1:-1] + padded[2:]
    columns = padded[:, :-2] + 2 * padded[:, 1:-1] + padded[:, 2:]
    across, down = rows[:, 2:] - rows[:, :-2], columns[2:] - columns[:-2]
    strength = np.abs(across) + np.abs(down)
    channel = strength.argmax(-1)[..., None]
    across, down, strength = (np.take_along_axis(part, channel, -1)[..., 0] for part in (across, down, strength))
    ridge = _thin(strength, across, down)
    return _connected(ridge & (strength > high), ridge & (strength > low))


def _thin(strength: np.ndarray, across: np.ndarray, down: np.ndarray) -> np.ndarray:
    """Local maxima of the strength along the gradient, in steps of 45 degrees."""
    padded = np.pad(strength, 1)

    def neighbour(row: int, column: int) -> np.ndarray:
        height, width = strength.shape
        return padded[1 + row : 1 + row + height, 1 + column : 1 + column + width]

    flat = np.abs(down) < np.abs(across) * np.tan(np.pi / 8)
    steep = np.abs(down) > np.abs(across) * np.tan(3 * np.pi / 8)
    falling = ~flat & ~steep & (across * down > 0)
    thin = np.zeros(strength.shape, bool)
    for where, (row, column) in (
        (flat, (0, 1)),
        (steep, (1, 0)),
        (falling, (1, 1)),
        (~flat & ~steep & ~falling, (1, -1)),
    ):
        thin |= where & (strength > neighbour(-row, -column)) & (strength >= neighbour(row, column))
    return thin


def _connected(seeds: np.ndarray, allowed: np.ndarray) -> np.ndarray:
    """The allowed pixels that are connected with a seed over sides or corners."""
    height, width = allowed.shape
    reached = np.zeros((height + 2, width + 2), bool)
    reached[1:-1, 1:-1] = seeds
    free = np.pad(allowed, 1)
    flat, open_ = reached.ravel(), free.ravel()
    steps = np.array([row * (width + 2) + column for row in (-1, 0, 1) for column in (-1, 0, 1) if row or column])
    front = np.flatnonzero(flat)
    while len(front):
        around = np.unique((front[:, None] + steps).ravel())
        front = around[open_[around] & ~flat[around]]
        flat[front] = True
    return reached[1:-1, 1:-1]
