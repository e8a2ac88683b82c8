"""Render images of a class: vectorised over a batch, antialiased, and a function of (seed, split, class, index) alone."""

import numpy as np

from engine.world.classes import Context, ImageClass, contexts
from engine.world.random import Dice, image_keys, words
from engine.world.strokes import SHAPES
from engine.world.textures import TEXTURES

PALETTE: dict[str, tuple[float, float, float]] = {
    "red": (0.86, 0.14, 0.14),
    "orange": (0.96, 0.55, 0.10),
    "yellow": (0.97, 0.87, 0.18),
    "green": (0.20, 0.62, 0.22),
    "teal": (0.10, 0.62, 0.62),
    "blue": (0.15, 0.32, 0.86),
    "purple": (0.54, 0.20, 0.70),
    "pink": (0.97, 0.56, 0.74),
    "brown": (0.50, 0.30, 0.14),
    "white": (0.96, 0.96, 0.95),
    "grey": (0.56, 0.57, 0.60),
    "black": (0.09, 0.09, 0.11),
    "sky": (0.72, 0.87, 0.95),
    "rubber": (0.16, 0.15, 0.16),
}
_MAIN = np.array([rgb for name, rgb in PALETTE.items() if name not in ("sky", "rubber")], dtype=np.float32)
_CHUNK = 64  # images rendered at once: their planes stay in the processor's cache


def render(
    item: ImageClass, split: str, indices: np.ndarray, seed: int = 0, size: int = 32, context: str = ""
) -> np.ndarray:
    """Render the images of `item` with these indices of a split.

    Args:
        item: class to render.
        split: images of different splits never coincide.
        indices: [N] integers; image i does not depend on its companions.
        seed: the world's seed.
        size: edge in pixels.
        context: a phrase of `contexts()`; empty for none.

    Returns:
        [N, size, size, 3] uint8, RGB.

    Raises:
        ValueError: the world does not have the context, or the class is a texture, which leaves no room for one.
    """
    if context and context not in contexts():
        raise ValueError(f"The miniature world has no context {context!r}; it has {', '.join(contexts())}.")
    if context and item.texture:
        raise ValueError(f"{item.name} is a texture and fills its image; render it without a context.")
    place = contexts()[context] if context else None
    keys = image_keys(seed, split, f"{item.name} {context}".strip(), np.asarray(indices))
    if len(keys) == 0:
        return np.zeros((0, size, size, 3), np.uint8)
    return np.concatenate([_draw(item, keys[i : i + _CHUNK], size, place) for i in range(0, len(keys), _CHUNK)])


def _draw(item: ImageClass, keys: np.ndarray, size: int, place: Context | None) -> np.ndarray:
    dice = Dice(keys)
    axis = (np.arange(size, dtype=np.float32) + np.float32(0.5)) * np.float32(2 / size) - 1
    x, y = np.broadcast_to(axis, (len(keys), size, size)), np.broadcast_to(axis[:, None], (len(keys), size, size))
    main, accent = _main_colours(dice), _main_colours(dice)
    canvas = _background(dice, main, x, y, place)
    if item.texture:
        _draw_texture(item.texture, canvas, dice, x, y)
    else:
        _draw_clutter(canvas, dice, x, y, size)
        _draw_strokes(item, canvas, dice, main, accent, x, y, size)
    _draw_occluder(canvas, dice, x, y, size)
    if place:
        canvas *= np.array(place.light, np.float32)[:, None, None, None]
    _light(canvas, dice, x, y)
    return _camera(canvas, dice, keys)


def _plane(values: np.ndarray) -> np.ndarray:
    return values[:, None, None]


def _main_colours(dice: Dice) -> np.ndarray:
    """[N, 3] of the palette, jittered."""
    return np.clip(_MAIN[dice.choice(len(_MAIN))] + dice.colours(-0.06, 0.06), 0, 1)


def _background(dice: Dice, main: np.ndarray, x: np.ndarray, y: np.ndarray, place: Context | None) -> np.ndarray:
    """A horizon or a gradient, [3, N, S, S], its brightness kept off that of the main colour; in a context, its sky and ground."""
    luminance = main @ np.array([0.3, 0.6, 0.1], dtype=np.float32)
    shift = np.where(luminance > 0.5, np.float32(-0.16), np.float32(0.16))[:, None]
    above, below = (np.clip(dice.colours(0.25, 0.8) + shift, 0, 1) for _ in range(2))
    angle = dice.uniform(0, 2 * np.pi)
    horizon = (dice.uniform() < 0.5) | (place is not None)
    if place:
        above, below = (np.array(rgb, np.float32) + dice.colours(-0.07, 0.07) for rgb in (place.above, place.below))
    tilt = np.where(horizon, dice.uniform(-0.15, 0.15), np.cos(angle))
    rise = np.where(horizon, np.float32(1), np.sin(angle))
    sharp = np.where(horizon, np.float32(8), np.float32(0.5))
    level = np.where(horizon, dice.uniform(-0.2, 0.5), np.float32(0))
    blend = np.clip((x * _plane(tilt) + y * _plane(rise) - _plane(level)) * _plane(sharp) + np.float32(0.5), 0, 1)
    return np.stack([_plane(above[:, c]) + blend * _plane(below[:, c] - above[:, c]) for c in range(3)])


def _paint(canvas: np.ndarray, alpha: np.ndarray, colour: np.ndarray) -> None:
    for c in range(3):
        canvas[c] += alpha * (_plane(colour[:, c]) - canvas[c])


def _draw_clutter(canvas: np.ndarray, dice: Dice, x: np.ndarray, y: np.ndarray, size: int) -> None:
    for _ in range(3):
        seen = (dice.uniform() < 0.6) * np.float32(1)
        cx, cy, radius = dice.uniform(-1, 1), dice.uniform(-1, 1), dice.uniform(0.06, 0.22)
        ratio = dice.uniform(0.6, 1.6)
        distance = np.maximum(np.abs(x - _plane(cx)) * _plane(ratio), np.abs(y - _plane(cy))) - _plane(radius)
        _paint(canvas, np.clip(0.5 - distance * np.float32(size / 2), 0, 1) * _plane(seen), dice.colours(0.15, 0.85))


def _draw_occluder(canvas: np.ndarray, dice: Dice, x: np.ndarray, y: np.ndarray, size: int) -> None:
    """Something in front, in one image of four."""
    seen = (dice.uniform() < 0.25) * np.float32(1)
    cx, cy, across, angle = (
        dice.uniform(-0.8, 0.8),
        dice.uniform(-0.8, 0.8),
        dice.uniform(0.08, 0.22),
        dice.uniform(0, np.pi),
    )
    long = np.where(dice.uniform() < 0.4, np.float32(3), dice.uniform(0.15, 0.35))
    u = (x - _plane(cx)) * _plane(np.cos(angle)) + (y - _plane(cy)) * _plane(np.sin(angle))
    v = (y - _plane(cy)) * _plane(np.cos(angle)) - (x - _plane(cx)) * _plane(np.sin(angle))
    distance = np.maximum(
        np.abs(u) - _plane(across * np.where(long > 1, np.float32(0.5), np.float32(1))), np.abs(v) - _plane(long)
    )
    _paint(canvas, np.clip(0.5 - distance * np.float32(size / 2), 0, 1) * _plane(seen), dice.colours(0.05, 0.95))


def _draw_strokes(
    item: ImageClass, canvas: np.ndarray, dice: Dice, main: np.ndarray, accent: np.ndarray, x: np.ndarray, y: np.ndarray, size: int
) -> None:  # fmt: skip
    upright = np.float32(0.35 if item.sign else 1)
    scale = dice.uniform(0.68, 0.98)
    angle = dice.uniform(-0.45, 0.45) * upright
    flip = np.where((dice.uniform() < 0.5) & (not item.sign), np.float32(-1), np.float32(1))
    aspect = dice.uniform(0.8, 1.2)
    room = np.float32(1.0) - scale
    cx, cy = dice.uniform(-1.2, 1.2) * room, dice.uniform(-1.2, 1.2) * room
    c, s = np.cos(angle), np.sin(angle)
    px, py = x - _plane(cx), y - _plane(cy)
    u = px * _plane(c / (scale * aspect) * flip) + py * _plane(s / (scale * aspect) * flip)
    v = py * _plane(c / scale) - px * _plane(s / scale)
    bend, phase = dice.uniform(-0.06, 0.06), dice.uniform(0, 2 * np.pi)
    u = u + _plane(bend) * np.sin(v * np.float32(2.5) + _plane(phase))
    sharpness = _plane(scale * np.float32(size / 2))
    shade = dice.colours(-0.05, 0.05)
    named = {"main": main, "accent": accent, "dark": main * np.float32(0.55), "pale": main * 0.45 + np.float32(0.55)}
    for stroke in item.strokes:
        shape, *numbers, colour = stroke.split()
        distance = SHAPES[shape](u, v, [float(number) for number in numbers])
        alpha = np.clip(np.float32(0.5) - distance * sharpness, 0, 1)
        rgb = named[colour] if colour in named else np.array(PALETTE[colour], dtype=np.float32) + shade
        _paint(canvas, alpha, rgb)


def _draw_texture(name: str, canvas: np.ndarray, dice: Dice, x: np.ndarray, y: np.ndarray) -> None:
    frequency, angle, aspect = dice.uniform(1.1, 2.0), dice.uniform(-0.6, 0.6), dice.uniform(0.85, 1.15)
    c, s = np.cos(angle) * frequency, np.sin(angle) * frequency
    u = (x * _plane(c) + y * _plane(s)) * _plane(aspect) + _plane(dice.uniform(-3, 3))
    v = y * _plane(c) - x * _plane(s) + _plane(dice.uniform(-3, 3))
    if name == "ringed texture":  # its centre must be in the picture
        u, v = u - _plane(u[:, u.shape[1] // 2, u.shape[2] // 2]), v - _plane(v[:, v.shape[1] // 2, v.shape[2] // 2])
    ink, paper = dice.colours(0.0, 0.45), dice.colours(0.55, 1.0)
    swap = (dice.uniform() < 0.4)[:, None]
    ink, paper = np.where(swap, paper, ink), np.where(swap, ink, paper)
    pattern = TEXTURES[name](u, v)
    for channel in range(3):
        plane = _plane(paper[:, channel])
        canvas[channel] = plane * 0.85 + canvas[channel] * 0.15 + pattern * (_plane(ink[:, channel]) - plane)


def _light(canvas: np.ndarray, dice: Dice, x: np.ndarray, y: np.ndarray) -> None:
    """Light from one side, brightness, a colour cast and haze."""
    angle, strength = dice.uniform(0, 2 * np.pi), dice.uniform(0, 0.35)
    shading = 1 + x * _plane(np.cos(angle) * strength) + y * _plane(np.sin(angle) * strength)
    bright, cast = dice.uniform(0.75, 1.2), dice.colours(0.87, 1.13)
    haze, air = dice.uniform(0, 0.3) * dice.uniform(), dice.colours(0.4, 0.9)
    for c in range(3):
        canvas[c] *= shading * _plane(bright * cast[:, c])
        canvas[c] += _plane(haze) * (_plane(air[:, c]) - canvas[c])


def _camera(canvas: np.ndarray, dice: Dice, keys: np.ndarray) -> np.ndarray:
    """Blur a little, add noise, round: [3, N, S, S] float32 to [N, S, S, 3] uint8."""
    blur = _plane(np.maximum(dice.uniform(-0.6, 1.0), 0))
    size = canvas.shape[-1]
    for axis in (2, 3):
        padded = np.take(canvas, np.clip(np.arange(-1, size + 1), 0, size - 1), axis=axis)
        before, after = (np.take(padded, np.arange(k, k + size), axis=axis) for k in (0, 2))
        canvas = canvas + blur * ((before + after) * np.float32(0.5) - canvas) * np.float32(0.6)
    noise = words(keys, size * size, 2).reshape(len(keys), size, size)
    loud = _plane(dice.uniform(0, 11 * 2**-15))
    out: np.ndarray = np.empty((*noise.shape, 3), np.uint8)
    for c in range(3):
        grain = ((noise >> np.uint64(16 * c)) & np.uint64(0xFFFF)).astype(np.float32) - np.float32(32768)
        out[..., c] = np.clip(canvas[c] * np.float32(255) + grain * loud + np.float32(0.5), 0, 255).astype(np.uint8)
    return out
