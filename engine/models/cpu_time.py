"""Expected time of an image on processors: an estimate for users who let a large generator run without a GPU."""

import time
from functools import cache

from engine.models.generators import adapter_of
from engine.models.spec import GeneratorSpec

WORTH_A_WARNING = 60.0
"""Seconds per image from which a user is warned."""
UNET_PIXELS, TRANSFORMER_PIXELS = 32, 16
"""Pixels per side of the square that one use of a denoiser's parameters covers: most parameters of a UNet work at a quarter of
the latent's resolution or less, those of a transformer on patches of two latents. Within a factor of four of the real count."""


def flop_per_image(spec: GeneratorSpec) -> float:
    """Estimated floating point operations of one image: 2 per parameter of the denoiser, position, and pass; 0 if unknown.

    A spec that does not state the denoiser's parameters counts those of all components.
    """
    adapter = adapter_of(spec.pipeline)
    side = TRANSFORMER_PIXELS if adapter.denoiser_name == "transformer" else UNET_PIXELS
    passes = spec.num_inference_steps * (adapter.guided_passes if spec.guidance_scale > 1 else 1)
    return 2 * (spec.denoiser_parameters or spec.parameters) * spec.height * spec.width / side**2 * passes


@cache
def flop_per_second() -> float:
    """Operations per second of float32 matrix products on one core of this machine, measured in a fraction of a second."""
    import torch

    size, threads = 768, torch.get_num_threads()
    matrix = torch.ones(size, size)
    torch.set_num_threads(1)
    try:
        seconds = []
        for _ in range(4):
            started = time.perf_counter()
            matrix @ matrix
            seconds.append(time.perf_counter() - started)
    finally:
        torch.set_num_threads(threads)
    return 2 * size**3 / min(seconds)


def cpu_warning(spec: GeneratorSpec, num_images: int = 1, num_workers: int = 1) -> str:
    """A sentence on the expected time of images by workers of one core each; empty for a generator that is fast enough.

    Args:
        spec: the generator.
        num_images: images to make, at most.
        num_workers: workers that share them.
    """
    flop = flop_per_image(spec)
    if not flop and spec.needs_gpu:
        return (
            f"warning: generator {spec.name} is slow on a processor, and its entry states no parameters_billion to estimate how "
            "slow; use a GPU"
        )
    if flop < 1e10 or (seconds := flop / flop_per_second()) < WORTH_A_WARNING:
        return ""
    total = num_images * seconds / max(1, min(num_workers, num_images))
    several = (
        f", and up to {num_images:,} images by {num_workers} worker{'s' * (num_workers > 1)} {duration(total)}"
        if num_images > 1
        else ""
    )
    return (
        f"warning: generator {spec.name} on a processor takes about {duration(seconds)} per image{several}; this is an estimate "
        f"from its parameters, its steps and a matrix product on this machine ({flop_per_second() / 1e9:.0f} GFLOP/s per core); use "
        "a GPU, or a smaller generator"
    )


def duration(seconds: float) -> str:
    """A time in its largest unit, such as `3.2 hours`."""
    units = (("years", 365 * 86_400), ("days", 86_400), ("hours", 3_600), ("minutes", 60))
    name, length = next((unit for unit in units if seconds >= unit[1]), ("seconds", 1))
    return f"{seconds / length:.2g} {name}" if seconds < 100 * length else f"{seconds / length:,.0f} {name}"
