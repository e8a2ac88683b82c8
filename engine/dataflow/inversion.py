"""Learned tokens on a cluster: workers fit batches of categories, and each batch is committed as it ends, so a run resumes by category."""

import json
import os
import sys
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from engine.dataflow.apply import MAX_RESTARTS
from engine.dataflow.resources import Ask, choose_ask
from engine.failures import RunFailed
from engine.images import decode_image
from engine.models.faults import is_device_fault
from engine.models.inversion.config import InversionConfig
from engine.models.references import fit
from engine.models.spec import GeneratorSpec
from engine.progress import Progress
from engine.sources.injected import TokenRef
from engine.store import Workspace

if TYPE_CHECKING:
    from engine.dataflow.run import Run

STAGE = "inject"
"""Name in the ledger."""
LOOK_SECONDS = 5.0
"""Seconds between two looks at the size of the cluster."""
EDITION = 1
"""Increased with every change of the fit that changes tokens."""


@dataclass(frozen=True)
class TokenJob:
    """A category whose token is wanted."""

    dataset: str
    class_index: int
    class_name: str
    token: str
    """Name of the token."""
    source: str
    """Source of the references."""
    seed: int
    reference_ids: tuple[str, ...]
    """Committed images."""
    templates: tuple[str, ...]
    shrink_to: int = 0
    """References are shrunk to so many pixels per side first, to show what low resolution does; 0 leaves them as they are."""

    def fitted_from(self, spec: GeneratorSpec, config: InversionConfig, contents: Sequence[str]) -> str:
        """Hash of everything that determines the token: weights, settings, and the contents of the references. 32 hexadecimal digits.

        The number of categories per batch changes rounding alone, and is no part of it.
        """
        settings = asdict(replace(config, categories_per_batch=1))
        model = [spec.recipe_revision(), spec.distilled_guidance, spec.num_inference_steps, spec.height, spec.width]
        mine = [self.token, self.source, self.seed, list(self.templates), self.shrink_to, list(contents)]
        return blake2b(json.dumps([EDITION, model, settings, mine]).encode(), digest_size=16).hexdigest()

    @property
    def noise_seed(self) -> int:
        """Seed of the fit, different for every category."""
        text = f"{self.seed}/{self.dataset}/{self.class_index}/{self.source}"
        return int.from_bytes(blake2b(text.encode(), digest_size=8, person=b"token").digest(), "big") >> 1


def learn_tokens(
    run: "Run", spec: GeneratorSpec, config: InversionConfig, jobs: Sequence[TokenJob]
) -> list[TokenRef | None]:
    """Fits the tokens that the workspace lacks and keeps them there; one per job, None for a fit that failed.

    A batch holds categories of any data set, source and seed. What is committed stays, so another run fits the rest alone.

    Raises:
        ValueError: the generator cannot be loaded or takes no tokens; a template or a batch does not fit.
        RunFailed: workers die repeatedly.
    """
    contents = _contents(run.workspace, jobs)
    hashes = [job.fitted_from(spec, config, contents_of) for job, contents_of in zip(jobs, contents, strict=True)]
    done = set(_known(run.workspace))
    missing = {key: job for key, job in zip(hashes, jobs, strict=True) if key not in done}
    if missing:
        done |= _fit(run, spec, config, missing)
    return [TokenRef(key, job.token) if key in done else None for key, job in zip(hashes, jobs, strict=True)]


def _known(workspace: Workspace) -> list[str]:
    table = workspace.dataset("tokens").to_table(columns=["fitted_from"])
    known: list[str] = table.column("fitted_from").to_pylist()
    return known


def _contents(workspace: Workspace, jobs: Sequence[TokenJob]) -> list[list[str]]:
    """Hashes of the pixels of each job's references."""
    ids = list(dict.fromkeys(one for job in jobs for one in job.reference_ids))
    table = workspace.fetch(ids, ["content_hash"])
    of = dict(zip(table.column("id").to_pylist(), table.column("content_hash").to_pylist(), strict=True))
    return [[of[one] for one in job.reference_ids] for job in jobs]


def _fit(run: "Run", spec: GeneratorSpec, config: InversionConfig, missing: dict[str, TokenJob]) -> set[str]:
    """Fits and commits; returns the hashes of those that came out."""
    run.connect()  # sets Ray's token, which Ray reads when it is imported
    import ray

    ask = choose_ask(run.cluster(), spec.num_gpus, spec.needs_gpu, run.device)
    items, size = list(missing.items()), config.categories_per_batch
    waiting = deque(items[at : at + size] for at in range(0, len(items), size))
    progress = Progress("learn tokens", len(items), unit="tokens", run_id=run.run_id)
    actors: list[Any] = []
    busy: dict[Any, tuple[Any, list[tuple[str, TokenJob]]]] = {}
    idle: deque[Any] = deque()
    found: set[str] = set()
    looked = -LOOK_SECONDS
    try:
        while waiting or busy:
            if time.monotonic() - looked >= LOOK_SECONDS:
                looked = time.monotonic()
                most = min(run.max_workers or len(waiting) + len(busy), len(waiting) + len(busy))
                wanted = min(max(1, run.cluster().room(ask)), most)
                new = [_start(run, spec, config, ask) for _ in range(wanted - len(actors))]
                actors += new
                idle += new
            while waiting and idle:
                actor, batch = idle.popleft(), waiting.popleft()
                busy[actor.fit.remote([job for _, job in batch])] = actor, batch
            ready, _ = ray.wait(list(busy), timeout=0.5)
            for ref in ready:
                actor, batch = busy.pop(ref)
                rows, seconds = _result(ref)
                idle.append(actor)
                usd = _commit(run, spec, ask, batch, rows, seconds)
                fitted = {key for (key, _), row in zip(batch, rows, strict=True) if row["weights"]}
                for (_, job), row in zip(batch, rows, strict=True):
                    if not row["weights"]:
                        run.say(f"the fit of {job.token} ended in numbers that are not finite; lower the rate")
                found |= fitted
                progress.add(len(fitted), len(batch) - len(fitted), usd)
            progress.show()
            run.renew()
    finally:
        for actor in actors:
            ray.kill(actor)
    progress.close()
    return found


def _start(run: "Run", spec: GeneratorSpec, config: InversionConfig, ask: Ask) -> Any:
    import ray

    resources = {"num_cpus": ask.num_cpus, "num_gpus": ask.num_gpus}
    actor: Any = ray.remote(**resources, max_restarts=MAX_RESTARTS, max_task_retries=MAX_RESTARTS)(_Fitter)
    return actor.remote(run.workspace.uri, spec, config, ask.device)


def _result(ref: Any) -> tuple[list[dict[str, Any]], float]:
    import ray

    try:
        rows, seconds = ray.get(ref)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, ValueError):
            raise error.cause from None
        raise RunFailed(f"learning tokens stopped ({error.cause}); run it again to go on") from error
    except ray.exceptions.RayActorError as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)[:200]
        raise RunFailed(
            f"workers that learn tokens die repeatedly ({reason}); look for what ends them, memory that runs out most often, and run "
            "it again to go on"
        ) from error
    return rows, seconds


def _commit(
    run: "Run",
    spec: GeneratorSpec,
    ask: Ask,
    batch: Sequence[tuple[str, TokenJob]],
    rows: Sequence[dict[str, Any]],
    seconds: float,
) -> float:
    """Keeps the tokens of a batch and enters its work into the ledger; returns its price."""
    each, total, kept = seconds / len(batch), 0.0, []
    for (key, job), row in zip(batch, rows, strict=True):
        fetched = row["reference_bytes"] if job.source == "retrieval" else 0
        of = {"source": "injected", "dataset": job.dataset, "strategy": f"from {job.source}", "generator": spec.name}
        usd = run.add_work(STAGE, int(bool(row["weights"])), each, ask, fetched_bytes=fetched, **of)
        total += usd
        if row["weights"]:
            kept.append(
                {
                    "fitted_from": key,
                    **{
                        name: getattr(job, name) for name in ("token", "dataset", "class_index", "class_name", "source")
                    },
                    "seed": job.seed,
                    "reference_ids": list(job.reference_ids),
                    "generator": spec.name,
                    "revision": spec.recipe_revision(),
                    **row,
                    "device_seconds": each,
                    "usd_compute": usd,
                    "run_id": run.run_id,
                    "created_at": datetime.now(UTC),
                }
            )
    if kept:
        run.workspace.check_lock()
        run.workspace.add_rows("tokens", pa.Table.from_pylist(kept))
    return total


class _Fitter:
    """Actor: reads references from the workspace and fits tokens."""

    def __init__(self, uri: str, spec: GeneratorSpec, config: InversionConfig, device: str):
        self._uri, self._spec, self._config, self._device = uri, spec, config, device
        self._generator: Any = None

    def fit(self, jobs: list[TokenJob]) -> tuple[list[dict[str, Any]], float]:
        """Part of a row of `tokens` per job, empty `weights` for a fit that failed; and the busy seconds."""
        import torch

        from engine.models.inversion.fit import Category, fit_tokens
        from engine.models.load import load_generator

        if self._generator is None:  # here and not in the constructor, whose errors Ray takes for a death
            if self._device == "cpu":
                torch.set_num_threads(1)  # one actor per core
            # half precision of 16 bits underflows in a backward pass; bfloat16 does not, and does not pay on processors
            dtype = "float32" if self._device == "cpu" else "bfloat16"
            self._generator = load_generator(self._spec, device=self._device, dtype=dtype)
        started = time.perf_counter()
        workspace = Workspace.open(self._uri, create=False)
        references = [self._references(workspace, job) for job in jobs]
        categories = [
            Category(job.token, pixels, job.templates, job.noise_seed, job.source)
            for job, (pixels, _) in zip(jobs, references, strict=True)
        ]
        try:
            fitted = fit_tokens(self._generator, categories, self._config)
        except RuntimeError as error:
            if not is_device_fault(error):
                raise
            print(error, file=sys.stderr, flush=True)
            os._exit(1)  # Ray gives the batch to a new process
        settings = json.dumps(asdict(self._config))
        rows = [
            {
                "weights": one.token.to_bytes() if one.token else b"",
                "losses": one.losses,
                "settings": settings,
                "reference_bytes": num_bytes,
            }
            for (_, num_bytes), one in zip(references, fitted, strict=True)
        ]
        return rows, time.perf_counter() - started

    def _references(self, workspace: Workspace, job: TokenJob) -> tuple[list[np.ndarray], int]:
        """The references of a job at the generator's size, and their bytes; decoded one by one, since a batch has hundreds, of any size."""
        found = workspace.fetch(list(job.reference_ids), ["image"])
        encoded = dict(zip(found["id"].to_pylist(), found["image"].to_pylist(), strict=True))
        spec, fitted = self._generator.spec, []
        for one in job.reference_ids:
            pixels = decode_image(encoded[one])
            if job.shrink_to:
                pixels = np.asarray(fit(pixels, job.shrink_to, job.shrink_to))
            fitted.append(np.asarray(fit(pixels, spec.height, spec.width)))
        return fitted, sum(len(encoded[one]) for one in job.reference_ids)
