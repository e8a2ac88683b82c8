#!/usr/bin/env python3
"""Our `generate` against the bare pipeline call, at equal batch, steps and arithmetic, on tiny pipelines of every class.

    python -m benchmarks.generator_overhead
    python -m benchmarks.generator_overhead --entries sd21 flux --pairs 20

Speed is the seconds of the bare call ÷ ours: 1 is no overhead, more is faster than the library alone (prompts are embedded
once). Processor seconds of one thread are counted, since other programs share the machine. The bare call gets its prompts
as text and its references as images, as its documentation shows; ours checks recipes, cuts references and rounds to uint8.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.common import machine, show
from engine.models import DiffusionGenerator, generator_names, generator_spec, load_generator
from engine.models.generators import pipeline_class
from engine.recipe import Recipe
from engine.testing.twins import image_size, small_references

GOAL = 0.97
PROMPTS = ("a photo of an apple", "a photo of a house", "a photo of a clock", "a photo of a chair")


def recipes(generator: DiffusionGenerator, batch: int, steps: int) -> list[Recipe]:
    """A batch of the generator's own defaults at a small size."""
    spec = generator.spec
    fields = spec.recipe_fields("reference") if generator.adapter.needs_reference else spec.recipe_fields()
    side = max(image_size(spec), 32) if spec.pipeline != "GlidePipeline" else image_size(spec)
    return [
        Recipe(
            source="generative",
            dataset="overhead",
            class_index=0,
            class_name="thing",
            prompt=PROMPTS[0],
            seed=seed,
            **fields | {"num_inference_steps": steps, "height": side, "width": side},
        )
        for seed in range(batch)
    ]


def bare_call(source: str, generator: DiffusionGenerator, batch: list[Recipe], image: Any) -> Callable[[], Any]:
    """The library's own pipeline, called as its documentation shows."""
    import torch
    from PIL import Image

    pipeline = pipeline_class(generator.spec.pipeline).from_pretrained(source, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    first = batch[0]
    scale = "true_cfg_scale" if generator.adapter.needs_reference else "guidance_scale"
    arguments: dict[str, Any] = {
        "num_inference_steps": first.num_inference_steps,
        scale: first.guidance_scale,
        "height": first.height,
        "width": first.width,
        "output_type": "pt",
    }
    if generator.adapter.needs_reference:
        arguments |= {"image": [Image.fromarray(image)], "negative_prompt": [" "] * len(batch)}
    if generator.spec.pipeline == "FluxPipeline" and not generator.adapter.supports_guidance:
        arguments |= {"max_sequence_length": 256}
    if generator.spec.pipeline == "FluxKontextPipeline":
        arguments |= {"max_area": first.height * first.width}
    return lambda: pipeline(
        prompt=[recipe.prompt for recipe in batch],
        generator=[torch.Generator("cpu").manual_seed(recipe.seed) for recipe in batch],
        **arguments,
    )


def seconds(call: Callable[[], Any]) -> float:
    """Processor seconds of one call."""
    started = time.process_time()
    call()
    return time.process_time() - started


def main() -> None:
    """Prints the speed of each entry and the minimum."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    import numpy as np
    import torch

    from engine.testing import generators as tiny_generators

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entries", nargs="+", default=generator_names(), help="registry entries")
    parser.add_argument("--pairs", type=int, default=9, help="pairs of measurements")
    parser.add_argument("--batch", type=int, default=4, help="images a call")
    parser.add_argument("--steps", type=int, default=4, help="sampler steps")
    options = parser.parse_args()
    torch.set_num_threads(1)
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    print(machine())
    medians = {}
    for name in options.entries:
        with tempfile.TemporaryDirectory() as folder, small_references():
            saved = tiny_generators.save(name, Path(folder))
            generator = load_generator(generator_spec(name, **saved), batch_size=options.batch)
            batch = recipes(generator, generator.batch_size, options.steps)
            bare = bare_call(saved["source"], generator, batch, image)
            ours = lambda generator=generator, batch=batch: generator.generate(batch, {"reference": image})  # noqa: E731
            seconds(bare), seconds(ours)
            pairs = [(seconds(bare), seconds(ours)) for _ in range(options.pairs)]
        medians[name] = show(f"{name}: bare ÷ ours", [theirs / mine for theirs, mine in pairs], f"(goal: >= {GOAL})")
    worst = min(medians, key=medians.__getitem__)
    print(f"least: {worst} {medians[worst]:.3f}; median of all {statistics.median(medians.values()):.3f}")


if __name__ == "__main__":
    main()
