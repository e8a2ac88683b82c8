"""Twelve textures: each maps coordinates (x, y in [-1, 1] times a frequency, [N, S, S]) to ink in [0, 1]."""

from collections.abc import Callable
from typing import TypeAlias

import numpy as np

Plane: TypeAlias = np.ndarray


def _soft(wave: Plane) -> Plane:
    """A wave in [-1, 1] to ink with an edge about a pixel wide."""
    return np.clip(wave * np.float32(2.0) + np.float32(0.5), 0, 1)


def _cell(x: Plane) -> Plane:
    return np.abs(x - np.round(x)) * 2


def _zigzag(x: Plane, y: Plane) -> Plane:
    return _soft(np.sin((y * 2.2 + _cell(x) * 1.4) * np.float32(np.pi)))


def _brick(x: Plane, y: Plane) -> Plane:
    row = np.floor(y * 1.6)
    across = _cell(x * 0.8 + np.where(row % 2 > 0, np.float32(0.5), np.float32(0)))
    return np.maximum(_soft((across - 0.8) * 4), _soft((_cell(y * 1.6 + 0.5) - 0.68) * 4))


def _scales(x: Plane, y: Plane) -> Plane:
    row = np.floor(y * 1.5)
    across = x + np.where(row % 2 > 0, np.float32(0.5), np.float32(0))
    return _soft(np.hypot((across - np.round(across)) * 2, y * 1.5 - row) * 3 - 2.7)


def _cracks(x: Plane, y: Plane) -> Plane:
    u, v = x + 0.45 * np.sin(y * 2.3 + x), y + 0.45 * np.sin(x * 2.9 - y * 1.3)
    return _soft((np.maximum(_cell(u + 0.3 * np.floor(v + 0.5)), _cell(v)) - 0.84) * 6)


def _woven(x: Plane, y: Plane) -> Plane:
    over = (np.floor(x * 1.5) + np.floor(y * 1.5)) % 2 > 0
    return np.where(over, np.sin(x * 1.5 * np.pi) ** 2, np.float32(1) - np.sin(y * 1.5 * np.pi) ** 2).astype(np.float32)


TEXTURES: dict[str, Callable[[Plane, Plane], Plane]] = {
    "banded texture": lambda x, y: _soft(np.sin(y * np.float32(5.0))),
    "chequered texture": lambda x, y: _soft(np.sin(x * 4) * np.sin(y * 4) * 3),
    "dotted texture": lambda x, y: _soft((0.55 - np.hypot(_cell(x), _cell(y))) * 3),
    "wavy texture": lambda x, y: _soft(np.sin((y + 0.35 * np.sin(x * 3)) * 5)),
    "bricked texture": _brick,
    "zigzag texture": _zigzag,
    "ringed texture": lambda x, y: _soft(np.sin(np.hypot(x, y * 1.1) * 6)),
    "gridded texture": lambda x, y: _soft((np.maximum(_cell(x * 1.3), _cell(y * 1.3)) - 0.72) * 4),
    "scaly texture": _scales,
    "marbled texture": lambda x, y: (
        np.float32(0.5) + np.float32(0.5) * np.sin(x * 1.5 + 2.2 * np.sin(y * 1.1 + 1.3 * np.sin(x * 1.7)))
    ),
    "cracked texture": _cracks,
    "woven texture": _woven,
}
