"""`imagefoundry doctor`: whether this machine can do what a run needs, each finding with what to do."""

import resource
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Literal

OLD_PRICE_DAYS = 180
"""Prices that were read longer ago than this are worth a look."""
BYTES_PER_PIXEL = 1.66
"""PNG of a photograph (benchmarks/results/2026-11-27-image-formats.md: 436 kB at 512 x 512)."""
FEW_FILES = 4_096
"""Ray opens some thousand files and sockets on a machine with many workers."""


@dataclass(frozen=True)
class DoctorConfig:
    """The run that is to be made ready for."""

    workspace: str = "workspace"
    """Folder or s3://bucket/prefix of the workspace."""
    generator: str = "mini"
    """Registry name or diffusers folder of the generator."""
    speed: str = "exact"
    """Speed of the generator: exact, fast or lossy."""
    encoder: str = "mini-clip"
    """Encoder, as the other commands take it."""
    images: int = 0
    """Images to be made, for the room on the disk; 0 to leave that out."""
    price_book: Path | None = None
    """TOML file that replaces the shipped prices."""
    ray: bool = True
    """Also start Ray (or connect to that of RAY_ADDRESS), which takes some seconds."""


@dataclass(frozen=True)
class Finding:
    """What one look found."""

    name: str
    state: Literal["ok", "warning", "problem"]
    words: str
    """What was found and, unless it is ok, what to do."""


@dataclass
class Diagnosis:
    """All findings."""

    findings: list[Finding] = field(default_factory=list)

    def print(self) -> int:
        """Prints a line per finding; returns the exit code, 1 if there is a problem."""
        for one in self.findings:
            print(f"{one.state:8} {one.name:16} {one.words}")
        problems = sum(one.state == "problem" for one in self.findings)
        print("This machine is ready." if not problems else f"{problems} problem{'s' * (problems > 1)} to solve.")
        return 1 if problems else 0


def doctor(config: DoctorConfig) -> Diagnosis:
    """Looks at everything, whatever a look finds. Raises ValueError for an unknown generator or a negative number of images."""
    from engine.models import generator_spec

    if config.images < 0:
        raise ValueError(f"images is {config.images}; give 0 or more")
    generator_spec(config.generator, speed=config.speed)
    looks: dict[str, Callable[[DoctorConfig], Iterator[Finding]]] = {
        "device": _device,
        "generator": _generator,
        "encoder": _encoder,
        "workspace": _workspace,
        "disk": _disk,
        "open files": _open_files,
        "prices": _prices,
    }
    if config.ray:
        looks["ray"] = _ray
    found = Diagnosis()
    for name, look in looks.items():
        try:
            found.findings += look(config)
        except ValueError as error:
            found.findings.append(Finding(name, "problem", str(error)))
    return found


def _device(config: DoctorConfig) -> Iterator[Finding]:
    import torch

    from engine.cpus import usable_cpus

    if torch.cuda.is_available():
        for number in range(torch.cuda.device_count()):
            free, total = torch.cuda.mem_get_info(number)
            words = f"{torch.cuda.get_device_name(number)}, {free / 1e9:.0f} of {total / 1e9:.0f} GB free"
            yield Finding("device", "ok", words)
    elif Path("/proc/driver/nvidia/version").exists():
        raise ValueError(
            f"the machine has an NVIDIA driver, and torch {torch.__version__} sees no GPU; install a driver for CUDA "
            f"{torch.version.cuda}, or check CUDA_VISIBLE_DEVICES"
        )
    else:
        yield Finding("device", "ok", f"no GPU; models compute on {usable_cpus()} processors")


def _generator(config: DoctorConfig) -> Iterator[Finding]:
    import torch
    from huggingface_hub import try_to_load_from_cache

    from engine.models import generator_spec
    from engine.models.cpu_time import cpu_warning
    from engine.models.device import torch_device
    from engine.models.precision import native_dtype
    from engine.models.reach import hub_problem
    from engine.models.speed import check_compiler
    from engine.models.weights import check_memory

    spec = generator_spec(config.generator, speed=config.speed)
    device = torch_device(torch.cuda.device_count())
    check_compiler(spec, device)
    dtype = native_dtype(spec.dtype, device)
    check_memory(spec.name, spec.weights_bytes(dtype), dtype, device)
    here = spec.is_local or isinstance(
        try_to_load_from_cache(spec.source, "model_index.json", revision=spec.revision), str
    )
    if not here and (problem := hub_problem()):
        raise ValueError(
            f"the weights of {spec.name} are not on this machine, and {problem}; download {spec.source} where there is a network, "
            "or give the path of a diffusers folder"
        )
    size = f"{spec.weights_bytes(dtype) / 1e9:.2g} GB in {dtype}"
    yield Finding("generator", "ok", f"{spec.name}: {size}, {'on this machine' if here else 'the Hub has it'}")
    if device == "cpu" and (line := cpu_warning(spec, max(1, config.images))):
        yield Finding("generator", "warning", line)


def _encoder(config: DoctorConfig) -> Iterator[Finding]:
    from engine.models.reach import check_encoder

    check_encoder(config.encoder)
    yield Finding("encoder", "ok", config.encoder)


def _workspace(config: DoctorConfig) -> Iterator[Finding]:
    from engine.store import Workspace
    from engine.store.checks import check_folder, normal_uri

    uri = normal_uri(config.workspace)
    if "://" not in uri:
        check_folder(Path(uri))
    try:
        workspace = Workspace.open(uri, create=False)
    except ValueError as error:
        if "there is no workspace" not in str(error):
            raise
        yield Finding("workspace", "ok", f"{uri} will be made")
    else:
        yield Finding("workspace", "ok", f"{uri} has {workspace.count():,} images")


def _disk(config: DoctorConfig) -> Iterator[Finding]:
    from engine.models import generator_spec
    from engine.store import compaction
    from engine.store.checks import normal_uri

    uri = normal_uri(config.workspace)
    if "://" in uri:
        return
    place = next(one for one in [Path(uri), *Path(uri).parents] if one.exists())
    free = shutil.disk_usage(place).free
    spec = generator_spec(config.generator)
    needed = config.images * spec.height * spec.width * BYTES_PER_PIXEL * compaction.ROOM
    words = f"{free / 1e9:.0f} GB free at {place}"
    if needed > free:
        raise ValueError(
            f"{words}, and {config.images:,} PNGs of {spec.width}x{spec.height} take about {needed / 1e9:.0f} GB while files are "
            "merged; use a larger disk or a bucket, or --image-format webp"
        )
    yield Finding("disk", "ok", words + (f", about {needed / 1e9:.1f} GB needed" if needed else ""))


def _open_files(config: DoctorConfig) -> Iterator[Finding]:
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most != resource.RLIM_INFINITY and most < FEW_FILES:
        fix = f"raise it with `ulimit -n {FEW_FILES}`"
        yield Finding("open files", "warning", f"a process may open {most:,} files, few for many workers; {fix}")
    else:
        yield Finding("open files", "ok", f"up to {most:,} per process")


def _prices(config: DoctorConfig) -> Iterator[Finding]:
    from engine.costs import PriceBook

    book = PriceBook.load(config.price_book)
    import torch

    name = torch.cuda.get_device_name(0) if torch.cuda.is_available() else None
    instance = book.for_device(name)
    words = f"{instance.name} at {instance.usd_per_hour:g} USD per hour, read on {instance.date}"
    age = None
    with suppress(ValueError):  # a user's own book may say `2026-11`
        age = (date.today() - date.fromisoformat(instance.date)).days
    if age is not None and age > OLD_PRICE_DAYS:
        yield Finding(
            "prices", "warning", f"{words}, {age} days ago; check it, and give --price-book if it has changed"
        )
    else:
        yield Finding("prices", "ok", words)


def _ray(config: DoctorConfig) -> Iterator[Finding]:
    from engine.dataflow.cluster import connected_cluster
    from engine.dataflow.resources import current_cluster

    started = time.perf_counter()
    try:
        with connected_cluster() as connection:
            seconds = time.perf_counter() - started
            total = current_cluster(may_grow=not connection.is_private).total
    except ValueError:
        raise
    except Exception as error:  # Ray's failures to start are of many kinds
        first = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise ValueError(f"Ray does not start ({first}); see its logs in /tmp/ray, or set RAY_ADDRESS") from error
    shown = ", ".join(f"{total.get(name, 0):g} {name}" for name in ("CPU", "GPU"))
    yield Finding("ray", "ok", f"{shown}; ready after {seconds:.0f} s")
