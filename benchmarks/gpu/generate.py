#!/usr/bin/env python3
"""Images a second, memory and dollars of SD 2.1 and SDXL at full size on one GPU: stock diffusers against `exact` and `fast`.

    python benchmarks/gpu/generate.py                                  # everything: about 40 minutes
    python benchmarks/gpu/generate.py --models sd21 --sizes 512 --batches 1 32
    python benchmarks/gpu/generate.py --tiny                           # the smoke test, on any machine

The real configurations with random weights, so nothing is downloaded: speed does not depend on what the weights say. Prompts
are random embeddings of the real shape, for all alike. Needs torch, diffusers and transformers only. The share of the card's
matrix rate counts the floating-point operations of the denoiser and the decoder (torch's own counter) against a
matrix product of 8192 x 8192 bfloat16 numbers measured in the same run.
"""

import argparse
import importlib.util
import statistics
import sys
import time
import tomllib
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

ROOT = Path(__file__).parents[2]
PAPER_USD_PER_IMAGE = 2.54e-4
"""GenBench Table 1, generated images."""

UNETS: dict[str, dict[str, Any]] = {
    "sd21": {
        "sample_size": 96,
        "cross_attention_dim": 1024,
        "attention_head_dim": (5, 10, 20, 20),
        "use_linear_projection": True,
    },
    "sdxl": {
        "sample_size": 128,
        "cross_attention_dim": 2048,
        "attention_head_dim": (5, 10, 20),
        "use_linear_projection": True,
        "block_out_channels": (320, 640, 1280),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": (1, 2, 10),
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    },
}
"""What differs from diffusers' defaults in `unet/config.json` of the two checkpoints."""
TINY = {
    "sd21": {"block_out_channels": (64, 64, 64, 64), "cross_attention_dim": 64, "attention_head_dim": (1, 2, 2, 2)},
    "sdxl": {
        "block_out_channels": (64, 64, 64),
        "cross_attention_dim": 64,
        "attention_head_dim": (1, 2, 2),
        "transformer_layers_per_block": (1, 1, 1),
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 80,
    },
}
"""The same shapes of networks, small."""


@dataclass(frozen=True)
class Setting:
    """One point of the measurement."""

    model: str
    size: int
    steps: int
    guidance: float
    batch: int


def build(model: str, tiny: bool, device: str, dtype: torch.dtype) -> Any:
    """A pipeline of the real configuration with random weights and no text encoders."""
    from diffusers import (
        AutoencoderKL,
        DDIMScheduler,
        EulerDiscreteScheduler,
        StableDiffusionPipeline,
        StableDiffusionXLPipeline,
        UNet2DConditionModel,
    )

    channels = (64, 64, 64, 64) if tiny else (128, 256, 512, 512)
    with torch.device(device):
        unet = UNet2DConditionModel(**UNETS[model] | (TINY[model] if tiny else {}))
        vae = AutoencoderKL(
            block_out_channels=channels,
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2,
            force_upcast=model == "sdxl",
        )
    networks = {"unet": unet, "vae": vae}
    parts: dict[str, Any] = {key: torch.nn.Module.to(network, dtype).eval() for key, network in networks.items()}
    parts |= {"text_encoder": None, "tokenizer": None}
    if model == "sd21":
        pipeline: Any = StableDiffusionPipeline(
            **parts,
            scheduler=DDIMScheduler(prediction_type="v_prediction", steps_offset=1, clip_sample=False),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    else:
        scheduler = EulerDiscreteScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
        pipeline = StableDiffusionXLPipeline(
            **parts, text_encoder_2=None, tokenizer_2=None, scheduler=scheduler, add_watermarker=False
        )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def apply_speed(pipeline: Any, model: str, speed: str, device: str) -> None:
    """What the registry's entry turns on, through the engine's own code, loaded without the engine's other packages."""
    found = importlib.util.spec_from_file_location("speed", ROOT / "engine" / "models" / "speed.py")
    assert found is not None
    assert found.loader is not None
    sys.path.insert(0, str(ROOT))  # for `engine.cache`, which needs no other package
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    registry = tomllib.loads((ROOT / "engine" / "models" / "registry.toml").read_text("utf-8"))
    levers = registry["generators"][model]["levers"]
    module.apply_levers(pipeline, pipeline.unet, SimpleNamespace(speed=speed, levers=levers), device)


def prompts(pipeline: Any, batch: int, guided: bool) -> dict[str, torch.Tensor]:
    """Random embeddings in the shapes that the real text encoders give."""
    unet = pipeline.unet
    like = {"device": unet.device, "dtype": unet.dtype}
    found = {"prompt_embeds": torch.randn(batch, 77, unet.config.cross_attention_dim, **like)}
    if unet.config.addition_embed_type == "text_time":
        width = unet.config.projection_class_embeddings_input_dim - 6 * unet.config.addition_time_embed_dim
        found["pooled_prompt_embeds"] = torch.randn(batch, width, **like)
    return found | ({f"negative_{name}": torch.randn_like(value) for name, value in found.items()} if guided else {})


def draw(pipeline: Any, setting: Setting) -> None:
    """One call, awaited."""
    pipeline(
        num_inference_steps=setting.steps,
        guidance_scale=setting.guidance,
        height=setting.size,
        width=setting.size,
        generator=[torch.Generator("cpu").manual_seed(seed) for seed in range(setting.batch)],
        output_type="pt",
        **prompts(pipeline, setting.batch, setting.guidance > 1),
    )
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def seconds_per_image(pipeline: Any, setting: Setting, repeats: int) -> float:
    """Median over the repeats, after a call to warm up (and compile)."""
    draw(pipeline, setting)
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        draw(pipeline, setting)
        times.append(time.perf_counter() - started)
    return statistics.median(times) / setting.batch


def tflop_per_image(model: str, tiny: bool, setting: Setting) -> float:
    """Floating-point operations of the denoiser's passes and the decoder, counted without computing (torch's meta device)."""
    from torch.utils.flop_counter import FlopCounterMode

    pipeline = build(model, tiny, "meta", torch.float32)
    factor = 2 ** (len(pipeline.vae.config.block_out_channels) - 1)
    latents = torch.zeros(1, 4, setting.size // factor, setting.size // factor, device="meta")
    text = prompts(pipeline, 1, False)
    added = (
        {"text_embeds": text["pooled_prompt_embeds"], "time_ids": torch.zeros(1, 6, device="meta")}
        if len(text) > 1
        else None
    )
    with torch.no_grad():
        with FlopCounterMode(display=False) as of_unet:
            pipeline.unet(
                latents,
                torch.zeros(1, device="meta"),
                encoder_hidden_states=text["prompt_embeds"],
                added_cond_kwargs=added,
            )
        with FlopCounterMode(display=False) as of_vae:
            pipeline.vae.decode(latents)
    passes = setting.steps * (2 if setting.guidance > 1 else 1)
    return (of_unet.get_total_flops() * passes + of_vae.get_total_flops()) / 1e12


def matrix_tflops(device: str) -> float:
    """The device's own rate for large bfloat16 matrix products, TFLOP/s."""
    side = 8192 if device == "cuda" else 256
    one = torch.randn(side, side, device=device, dtype=torch.bfloat16)
    best = float("inf")
    for _ in range(20):
        started = time.perf_counter()
        for _ in range(5):
            one @ one
        if device == "cuda":
            torch.cuda.synchronize()
        best = min(best, (time.perf_counter() - started) / 5)
    return 2 * side**3 / best / 1e12


def usd_per_second(instance: str, device_name: str) -> tuple[str, float]:
    """The price book's instance for this device, spot where it has one, and the price of one of its GPUs."""
    book = tomllib.loads((ROOT / "engine" / "costs" / "price_book.toml").read_text("utf-8"))
    if not instance:
        kind = next((name for name in book["defaults"] if name in device_name), "gpu")
        instance = book["defaults"][kind]
        instance = f"{instance}-spot" if f"{instance}-spot" in book["instances"] else instance
    entry = book["instances"][instance]
    return instance, entry["usd_per_hour"] / max(1, entry["num_gpus"]) / 3600


def main() -> None:
    """Prints one line of a table a measurement, and the ratios to stock."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(UNETS), choices=list(UNETS))
    parser.add_argument("--sizes", nargs="+", type=int, default=[512, 1024])
    parser.add_argument(
        "--steps", nargs="+", type=int, default=[50, 20], help="guided steps; 1 stands for one without guidance"
    )
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8, 32])
    parser.add_argument("--speeds", nargs="+", default=["stock", "exact", "fast"])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--instance", default="", help="instance of the price book (default: by the GPU's name, spot)")
    parser.add_argument("--tiny", action="store_true", help="tiny networks and pictures, to see that it runs")
    options = parser.parse_args()
    if options.tiny:
        options.sizes, options.steps, options.batches, options.repeats = [64], [2], [2], 1
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.float16 if device == "cuda" else torch.float32
    name = torch.cuda.get_device_name() if device == "cuda" else "cpu"
    rate = matrix_tflops(device)
    instance, usd = usd_per_second(options.instance, name)
    print(f"{name}, torch {torch.__version__}, {dtype}, matrix rate {rate:.3g} TFLOP/s bf16, priced as {instance}\n")
    print(
        "| model | pixels | steps | batch | speed | images/s | x stock | peak GB | TFLOP/image | of matrix rate | USD/image | x paper |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|---|---|", flush=True)
    stock: dict[Setting, float] = {}
    for model in options.models:
        for speed in options.speeds:
            pipeline = build(model, options.tiny, device, dtype)
            if speed != "stock":
                apply_speed(pipeline, model, speed, device)
            for size in options.sizes:
                for steps in options.steps:
                    for batch in options.batches:
                        setting = Setting(model, size, steps, 0.0 if steps == 1 else 7.5, batch)
                        measure(pipeline, setting, speed, options, rate, usd, stock)
            del pipeline
            if device == "cuda":
                torch._dynamo.reset()
                torch.cuda.empty_cache()


def measure(
    pipeline: Any, setting: Setting, speed: str, options: Any, rate: float, usd: float, stock: dict[Setting, float]
) -> None:
    """Measures one point and prints its line; a batch that does not fit gets a line that says so."""
    start = f"| {setting.model} | {setting.size} | {setting.steps} | {setting.batch} | {speed} |"
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    try:
        seconds = seconds_per_image(pipeline, setting, options.repeats)
    except torch.OutOfMemoryError:
        print(f"{start} out of memory | | | | | | |", flush=True)
        return
    if speed == "stock":
        stock[setting] = seconds
    tflop = tflop_per_image(setting.model, options.tiny, setting)
    peak = torch.cuda.max_memory_allocated() / 1e9 if torch.cuda.is_available() else 0.0
    gain = f"{stock[setting] / seconds:.2f}" if setting in stock else ""
    print(
        f"{start} {1 / seconds:.3f} | {gain} | {peak:.1f} | {tflop:.2f} | {tflop / seconds / rate:.0%} | "
        f"{seconds * usd:.2e} | {seconds * usd / PAPER_USD_PER_IMAGE:.3f} |",
        flush=True,
    )


if __name__ == "__main__":
    main()
