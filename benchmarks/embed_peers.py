"""What `benchmarks.embed_throughput` needs besides the engine: photographs, models, and the loops that it is measured against."""

import json
import multiprocessing
import os
import shutil
import subprocess
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from queue import Empty
from typing import Any

import numpy as np

from benchmarks.common import Speed, TreeClock
from engine.cpus import usable_cpus
from engine.images import decode_image
from engine.models import load_encoder
from engine.models.registry import encoder_source

HEIGHT, WIDTH, QUALITY = 375, 500, 90
ORIGINALS = 32
"""Photographs that a process renders; the others are these, shifted, so that no two files are equal."""
MODELS = ("mini-clip", "ViT-B-32")
BATCH = 64


def write_photos(folder: Path, num: int) -> None:
    """Writes `num` JPEGs of 500x375 as `train/CLASS/NUMBER.jpg`, of about 100 kB; those that are there are kept."""
    names = [folder / "train" / ("day", "night")[number % 2] / f"{number:06}.jpg" for number in range(num)]
    missing = [name for name in names if not name.exists()]
    cores = usable_cpus()
    with multiprocessing.get_context("spawn").Pool(cores) as pool:
        pool.map(_write_share, [(core, missing[core::cores]) for core in range(cores)])


def _write_share(share: tuple[int, list[Path]]) -> None:
    from PIL import Image

    seed, names = share
    random = np.random.default_rng(seed)
    originals = [_photo(random) for _ in range(min(ORIGINALS, len(names)))]
    for number, name in enumerate(names):
        name.parent.mkdir(parents=True, exist_ok=True)
        shift = tuple(int(part) for part in random.integers((HEIGHT, WIDTH)))
        pixels = np.roll(originals[number % len(originals)], shift, (0, 1))
        Image.fromarray(pixels).save(name, "JPEG", quality=QUALITY)


def _photo(random: np.random.Generator) -> np.ndarray:
    """`[375, 500, 3]` uint8 whose amplitudes fall with the frequency, as those of photographs do (about 1/f)."""
    frequency = np.hypot(np.fft.fftfreq(HEIGHT)[:, None], np.fft.rfftfreq(WIDTH)[None]) + 1 / WIDTH
    planes = np.stack(
        [np.fft.irfft2(np.fft.rfft2(random.standard_normal((HEIGHT, WIDTH))) / frequency) for _ in range(3)], axis=2
    )
    planes /= planes.std(axis=(0, 1))
    planes[:, :, 1:] = 0.8 * planes[:, :, :1] + 0.6 * planes[:, :, 1:]  # the colours of a photograph go together
    return np.clip(127 + 50 * planes, 0, 255).astype(np.uint8)


def write_model(name: str, folder: Path) -> Path:
    """Writes an open_clip folder: a copy of the registry's, or one of open_clip's architectures with random weights."""
    import open_clip
    import torch
    from safetensors.torch import save_file

    if name in MODELS[:1]:
        return Path(shutil.copytree(encoder_source(name).removeprefix("local-dir:"), folder))
    torch.manual_seed(0)
    model = open_clip.create_model(name, pretrained=None)
    preprocessing = {key: model.visual.preprocess_cfg[key] for key in ("mean", "std", "interpolation", "resize_mode")}
    folder.mkdir(parents=True)
    config = {"model_cfg": open_clip.get_model_config(name), "preprocess_cfg": preprocessing}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    return folder


def photos_in(folder: Path) -> list[Path]:
    """The files of `write_photos`, sorted."""
    return sorted(folder.rglob("*.jpg"))


def embedded(encoder: Any, paths: Sequence[Path]) -> np.ndarray:
    """Embeddings `[N, D]` float32: read, decode, resize and embed, by the engine's own functions."""
    pixels = np.stack([encoder.preprocessing.resize_array(decode_image(path.read_bytes())) for path in paths])
    import torch

    found: np.ndarray = encoder.encode_images(torch.from_numpy(pixels)).numpy()
    return found


def accumulated(arrivals: Iterable[tuple[float, int]]) -> list[tuple[float, int]]:
    """(Time, images so far), sorted, of (time, images)."""
    rows, found = 0, []
    for moment, count in sorted(arrivals):
        rows += count
        found.append((moment, rows))
    return found


def bare_worker(model: Path, paths: list[Path], done: Any) -> None:
    """One process of the bare loop; its embeddings are dropped."""
    import torch

    torch.set_num_threads(1)
    encoder = load_encoder(str(model), batch_size=BATCH)
    for start in range(0, len(paths), BATCH):
        part = paths[start : start + BATCH]
        embedded(encoder, part)
        done.put((time.monotonic(), len(part)))


def bare_speed(model: Path, photos: Path) -> Speed:
    """The speed of one process per core, each with its share of the files."""
    context = multiprocessing.get_context("spawn")
    done, paths, cores = context.Queue(), photos_in(photos), usable_cpus()
    workers = [context.Process(target=bare_worker, args=(model, paths[core::cores], done)) for core in range(cores)]
    arrivals: list[tuple[float, int]] = []
    with TreeClock() as clock:
        for worker in workers:
            worker.start()
        while sum(count for _, count in arrivals) < len(paths):
            try:
                arrivals.append(done.get(timeout=300))
            except Empty:
                raise SystemExit("a process of the bare loop died") from None
    for worker in workers:
        worker.join()
    return Speed.of(accumulated(arrivals), clock)


def peer_speed(python: Path, model: Path, photos: Path, output: Path, workers: int) -> tuple[Speed, float]:
    """clip-retrieval's speed, and the least cosine of its embeddings with ours over 64 of the images."""
    script = Path(__file__).with_name("clip_retrieval_peer.py")
    places = {"images": photos, "model": model, "output": output}
    command = [
        str(python),
        str(script),
        *(f"--{name}={place}" for name, place in places.items()),
        f"--workers={workers}",
    ]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"HF_HUB_OFFLINE": "1"}
    with (output.parent / "peer.log").open("w") as log, TreeClock() as clock:
        if subprocess.run(command, env=environment, stdout=log, stderr=log, check=False).returncode:
            raise SystemExit(f"clip-retrieval failed; the end of its log:\n{Path(log.name).read_text()[-2000:]}")
    arrivals = [(moment, count) for moment, count in json.loads((output / "arrivals.json").read_text())]
    return Speed.of(accumulated(arrivals), clock), _least_cosine(model, photos, output)


def _least_cosine(model: Path, photos: Path, output: Path) -> float:
    import pyarrow.parquet as pq

    (names,) = (output / "metadata").glob("*.parquet")
    (vectors,) = (output / "img_emb").glob("*.npy")
    paths = [Path(path) for path in pq.read_table(names).column("image_path").to_pylist()[:64]]
    assert len(np.load(vectors)) == len(photos_in(photos))
    ours, theirs = embedded(load_encoder(str(model)), paths), np.load(vectors)[:64].astype(np.float32)
    return float((ours * theirs).sum(axis=1).min() / np.linalg.norm(theirs, axis=1).max())
