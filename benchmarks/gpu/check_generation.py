"""Stable Diffusion 2.1 at full size on a GPU: speeds against stock diffusers, and the engine against the bare loop."""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from benchmarks.gpu.models import save_sd21
from benchmarks.gpu.rows import Busy, Machine, Row, seconds
from engine.models import GeneratorSpec, generator_spec, load_generator
from engine.recipe import Recipe

BATCH = 32
STEPS = 20


@dataclass(frozen=True)
class PromptPlan:
    """`num` prompts for one generator."""

    spec: GeneratorSpec
    num: int

    def __len__(self) -> int:
        return self.num

    def __getitem__(self, index: int) -> Recipe:
        return Recipe(
            source="generative",
            dataset="check",
            class_index=index % 4,
            class_name="thing",
            prompt=f"a photo of {('an apple', 'a house', 'a clock', 'a chair')[index % 4]}",
            seed=index,
            **self.spec.recipe_fields(),
        )


def generate(machine: Machine) -> Iterator[Row]:
    """All speeds at one batch size."""
    spec = _spec(machine)
    stock = _stock_rate(machine, spec)
    yield Row(f"{_title(spec)}: stock diffusers", stock, "images/s")
    images = {}
    for speed in ("exact", "fast"):
        rate, images[speed], first = _bare_rate(machine, replace(spec, speed=speed))
        yield Row(f"the same, {speed}", rate, "images/s")
        least = 0.99 if speed == "exact" else 1.3
        yield Row(f"{speed} ÷ stock", rate / stock, "", least=least, on_any_card=True)
        yield Row(f"{speed}: first batch after loading", first, "s")
    yield Row("fast against exact", _psnr(images["exact"], images["fast"]), "dB PSNR", least=40, always=True)


def fill(machine: Machine) -> Iterator[Row]:
    """A fill at the fastest speed, against the generator alone."""
    spec = replace(_spec(machine), speed="fast")
    bare, _, _ = _bare_rate(machine, spec)
    yield Row(f"{_title(spec)}: fast, the generator alone", bare, "images/s")
    yield from _fill(machine, spec, bare)


def _spec(machine: Machine) -> GeneratorSpec:
    folder = machine.folder / "sd21"
    if not folder.exists():
        save_sd21(folder, machine.tiny, machine.device)
    side, steps, batch = (16, 2, 2) if machine.tiny else (512, STEPS, BATCH)
    spec = generator_spec("sd21", source=str(folder))
    return replace(spec, height=side, width=side, num_inference_steps=steps, batch_size=batch)


def _title(spec: GeneratorSpec) -> str:
    return f"SD 2.1, {spec.height}², {spec.num_inference_steps} steps, batch {spec.batch_size}"


def _plan(spec: GeneratorSpec) -> list[Recipe]:
    plan = PromptPlan(spec, spec.batch_size)
    return [plan[index] for index in range(len(plan))]


def _stock_rate(machine: Machine, spec: GeneratorSpec) -> float:
    from diffusers import StableDiffusionPipeline

    pipeline: Any = StableDiffusionPipeline.from_pretrained(
        spec.source, torch_dtype=torch.float32 if machine.device == "cpu" else torch.float16
    ).to(machine.device)
    pipeline.set_progress_bar_config(disable=True)
    recipes = _plan(spec)

    def draw() -> None:
        pipeline(
            [recipe.prompt for recipe in recipes],
            num_inference_steps=spec.num_inference_steps,
            guidance_scale=spec.guidance_scale,
            height=spec.height,
            width=spec.width,
            generator=[torch.Generator("cpu").manual_seed(recipe.seed) for recipe in recipes],
            output_type="pt",
        )

    return len(recipes) / seconds(draw, machine.device, 1)


def _bare_rate(machine: Machine, spec: GeneratorSpec) -> tuple[float, torch.Tensor, float]:
    """Images per second of the loaded generator alone, its images, and the seconds of its first batch."""
    generator = load_generator(spec, device=machine.device, batch_size=spec.batch_size)
    recipes = _plan(spec)
    started = time.perf_counter()
    images = generator.generate(recipes).cpu()
    first = time.perf_counter() - started
    rate = len(recipes) / seconds(partial(generator.generate, recipes), machine.device, 1)
    del generator
    torch._dynamo.reset()
    if machine.device == "cuda":
        torch.cuda.empty_cache()
    return rate, images, first


def _psnr(one: torch.Tensor, other: torch.Tensor) -> float:
    """Peak signal-to-noise ratio of uint8 images, dB; 100 for equal ones."""
    error = (one.double() - other.double()).square().mean().item()
    return min(100.0, 10 * math.log10(255**2 / error)) if error else 100.0


def _fill(machine: Machine, spec: GeneratorSpec, bare: float) -> Iterator[Row]:
    """Images through the engine: made, encoded as PNG, written, committed."""
    from engine.costs import PriceBook
    from engine.dataflow.run import Run
    from engine.sources import GeneratorMaker
    from engine.store import Workspace

    arrivals: list[tuple[float, int]] = []
    written: list[float] = []

    def arrive(report: Any) -> None:
        if report.rows:
            arrivals.append((time.perf_counter(), (arrivals[-1][1] if arrivals else 0) + report.rows))
        if report.receipts:
            written.append(time.perf_counter())

    num = spec.batch_size * 7
    started = time.perf_counter()
    workspace = Workspace.open(machine.folder / "images")
    with Busy(machine.device) as busy, Run(workspace, PriceBook.load(), on_report=arrive) as run:
        run.fill("images", PromptPlan(spec, num), GeneratorMaker(spec, spec.batch_size))
    assert workspace.count() == num
    rate = (arrivals[-1][1] - arrivals[0][1]) / max(arrivals[-1][0] - arrivals[0][0], 1e-9)
    yield Row("engine, fast", rate, "images/s")
    yield Row("engine ÷ bare loop", rate / bare, "", least=0.95, on_any_card=True)
    yield Row("engine: GPU busy", busy.between(arrivals[0][0], arrivals[-1][0]))
    yield Row("engine: first rows written after the start, compiled before", written[0] - started, "s", most=60)
