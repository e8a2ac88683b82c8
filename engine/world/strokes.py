"""Signed distances to simple shapes, one call for a whole batch: x, y are [N, S, S] float32, so is the answer."""

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np

Plane: TypeAlias = np.ndarray
Distance = Callable[[Plane, Plane, Sequence[float]], Plane]


def _turn(x: Plane, y: Plane, degrees: float) -> tuple[Plane, Plane]:
    if not degrees:
        return x, y
    c, s = np.float32(np.cos(np.radians(degrees))), np.float32(np.sin(np.radians(degrees)))
    return x * c + y * s, y * c - x * s


def disc(x: Plane, y: Plane, p: Sequence[float]) -> Plane:
    """`disc cx cy r`."""
    return np.hypot(x - np.float32(p[0]), y - np.float32(p[1])) - np.float32(p[2])


def ring(x: Plane, y: Plane, p: Sequence[float]) -> Plane:
    """`ring cx cy r halfwidth`."""
    return np.abs(disc(x, y, p)) - np.float32(p[3])


def oval(x: Plane, y: Plane, p: Sequence[float]) -> Plane:
    """`oval cx cy rx ry degrees` (distance approximate, exact at the edge)."""
    x, y = _turn(x - np.float32(p[0]), y - np.float32(p[1]), p[4])
    return (np.hypot(x * np.float32(1 / p[2]), y * np.float32(1 / p[3])) - 1) * np.float32(min(p[2], p[3]))


def box(x: Plane, y: Plane, p: Sequence[float]) -> Plane:
    """`box cx cy halfx halfy`."""
    dx, dy = np.abs(x - np.float32(p[0])) - np.float32(p[2]), np.abs(y - np.float32(p[1])) - np.float32(p[3])
    return np.maximum(dx, dy)


def line(x: Plane, y: Plane, p: Sequence[float]) -> Plane:
    """`line x1 y1 x2 y2 halfwidth`, with round ends."""
    x, y = x - np.float32(p[0]), y - np.float32(p[1])
    bx, by = np.float32(p[2] - p[0]), np.float32(p[3] - p[1])
    along = np.clip((x * bx + y * by) * (1 / (bx * bx + by * by)), 0, 1)
    return np.hypot(x - along * bx, y - along * by) - np.float32(p[4])


def poly(x: Plane, y: Plane, p: Sequence[float]) -> Plane:
    """`poly x1 y1 x2 y2 …`: a convex polygon, either way round."""
    corners = np.array(p, dtype=np.float64).reshape(-1, 2)
    ahead = np.roll(corners, -1, axis=0)
    area: float = np.sum(corners[:, 0] * ahead[:, 1] - ahead[:, 0] * corners[:, 1])
    distance: Plane | None = None
    for (ax, ay), (bx, by) in zip(corners, ahead, strict=True):
        length = np.copysign(np.hypot(bx - ax, by - ay), area)
        nx, ny = (by - ay) / length, (ax - bx) / length
        half = x * np.float32(nx) + (y * np.float32(ny) - np.float32(ax * nx + ay * ny))
        distance = half if distance is None else np.maximum(distance, half)
    assert distance is not None
    return distance


def dome(x: Plane, y: Plane, p: Sequence[float]) -> Plane:
    """`dome cx cy r`: the upper half of a disc."""
    return np.maximum(disc(x, y, p), y - np.float32(p[1]))


def star(x: Plane, y: Plane, p: Sequence[float]) -> Plane:
    """`star cx cy r n`: a regular polygon of n sides."""
    angles = (np.arange(int(p[3])) + 0.5) * 2 * np.pi / p[3]
    corners = np.stack([p[0] + p[2] * np.cos(angles), p[1] + p[2] * np.sin(angles)], axis=1)
    return poly(x, y, corners.ravel().tolist())


def petals(x: Plane, y: Plane, p: Sequence[float]) -> Plane:
    """`petals cx cy r n waist power`: n petals; waist is how deep they part, power how narrow they are."""
    x, y = x - np.float32(p[0]), y - np.float32(p[1])
    lobe = np.abs(np.cos(np.arctan2(y, x) * np.float32(p[3] / 2))) ** np.float32(p[5])
    return np.hypot(x, y) - np.float32(p[2]) * (np.float32(p[4]) + np.float32(1 - p[4]) * lobe)


SHAPES: dict[str, Distance] = {
    shape.__name__: shape for shape in (disc, ring, oval, box, line, poly, dome, star, petals)
}
