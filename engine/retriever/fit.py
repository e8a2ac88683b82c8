"""The training loop of a head, on one process or as one of several; `ray_training.py` runs it on a cluster."""

import json
import time
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from engine.retriever.blocks import Block
from engine.retriever.data import Batch, RetrieverData
from engine.retriever.exact_search import top_k
from engine.retriever.head import Head, HeadSpec
from engine.retriever.loss import reflective_loss

MOST_VALIDATION_TEXTS = 4096
"""Texts used for validation, spread evenly over all texts, so that choosing the epoch stays cheap."""
_TENSORS, _FACTS = "fit.safetensors", "fit.json"


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """Training settings of a head."""

    label: str = "realrag"
    """Name of the retriever, for its column and reports."""
    num_negatives: int = 1
    """Reflective negatives per text; 0 is Normal-RAG."""
    temperature_on_reflective: bool = True
    """Divide their similarity by the temperature too; Eq. 7 prints it without, which makes them a near no-op."""
    remine: bool = False
    """Mine the negatives again before each epoch but the first, with the current head instead of the frozen encoder."""
    epochs: int = 60
    """Maximum number of epochs."""
    patience: int = 0
    """Epochs without a better validation P@1 after which training stops; 0 for never."""
    batch_size: int = 128
    """Texts per batch, summed over all workers."""
    learning_rate: float = 2e-3
    """Of AdamW."""
    weight_decay: float = 1e-2
    """Of AdamW."""
    temperature: float = 0.07
    """Tau of Eq. 7."""
    hidden: int = 256
    """Width of the head's hidden layer."""
    residual: bool = True
    """Add the MLP's output to its input."""
    mix: float = 0.0
    """Weight of the frozen embedding that is mixed back into the result, 0 to 1."""
    keep_epochs: tuple[int, ...] = ()
    """Epochs whose heads are kept in addition to the chosen one (RealRAG Fig. 7)."""
    seed: int = 0
    """Seed of the weights, of the order of the texts, and of the choice of positives."""

    def check(self) -> None:
        """Raises ValueError if a setting is invalid."""
        for name in ("epochs", "batch_size", "learning_rate", "temperature", "hidden"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} is {getattr(self, name)}, which trains nothing; give more than 0")
        if self.batch_size < 2:
            raise ValueError("a batch of one text has no negatives; give a batch size of 2 or more")
        if self.num_negatives < 0 or self.patience < 0:
            raise ValueError("the number of negatives and the patience cannot be negative; give 0 or more")


@dataclass(frozen=True)
class Trained:
    """Result of a training run."""

    head: Head
    """Head of the epoch with the best validation P@1, or of the last epoch without a validation split."""
    curves: list[dict[str, float]]
    """One row per epoch: `epoch`, `loss`, `precision_at_1` on the validation images (NaN without any), `seconds`."""
    checkpoints: dict[int, Head]
    """Epoch → head, for `keep_epochs`."""


class Fit:
    """The state of one head's training; one worker of `world_size`, which must have joined a torch process group."""

    def __init__(
        self,
        data: RetrieverData,
        config: TrainingConfig,
        device: torch.device | str = "cpu",
        rank: int = 0,
        world_size: int = 1,
    ):
        """Raises ValueError as `check_training` does."""
        check_training(data, config, world_size)
        self.data, self.config = data, config
        self._rank, self._world_size = rank, world_size
        self._device = torch.device(device)
        self._tensors = _on_device(data, self._device)
        spec = HeadSpec(
            encoder=data.encoder,
            dimension=data.text_features.shape[1],
            hidden=config.hidden,
            residual=config.residual,
            mix=config.mix,
            label=config.label,
        )
        self.head = _seeded(spec, config.seed).to(self._device)
        self._model: nn.Module = self.head
        if world_size > 1:
            self._model = nn.parallel.DistributedDataParallel(self.head)
        self._optimizer = torch.optim.AdamW(
            self.head.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
        )
        self.epoch = 0
        self.best_epoch = 0
        self.curves: list[dict[str, float]] = []
        self._kept: dict[int, dict[str, torch.Tensor]] = {}

    @property
    def done(self) -> bool:
        """Whether all epochs are trained, or the validation has not improved for `patience` epochs."""
        waited = self.epoch - self.best_epoch
        return self.epoch >= self.config.epochs or bool(self.config.patience and waited >= self.config.patience)

    def run(self) -> Trained:
        """Trains the remaining epochs."""
        while not self.done:
            self.run_epoch()
        return self.result()

    def run_epoch(self) -> dict[str, float]:
        """Trains one epoch, validates, and returns its row of the curves."""
        started = time.perf_counter()
        config, anew = self.config, self.config.remine and self.config.num_negatives and self.epoch
        batches = self.data.batches(
            config.batch_size,
            config.num_negatives,
            config.seed,
            self.epoch,
            self._world_size,
            self._mined_anew() if anew else None,
        )
        self.head.train()
        total = torch.zeros((), device=self._device)
        for batch in batches:
            self._optimizer.zero_grad(set_to_none=True)
            loss = self._loss(batch)
            loss.backward()
            self._optimizer.step()
            total += loss.detach()
        if self._world_size > 1:
            torch.distributed.all_reduce(total)
        loss_mean = float(total) / (len(batches) * self._world_size)
        seconds = time.perf_counter() - started
        self.head.eval()
        precision = self._precision_at_1()
        self.epoch += 1
        best = max((row["precision_at_1"] for row in self.curves), default=-1.0)
        if np.isnan(precision) or precision > best:
            self.best_epoch = self.epoch
            self._keep(0)
        if self.epoch in self.config.keep_epochs:
            self._keep(self.epoch)
        row = {"epoch": self.epoch, "loss": loss_mean, "precision_at_1": precision, "seconds": seconds}
        self.curves.append(row)
        return row

    @torch.inference_mode()
    def _mined_anew(self) -> np.ndarray:
        """`[T, K]`: training images of other classes that the head puts nearest to each text's generated image."""
        data = self.data
        assert data.generated is not None, "check_training refuses this"
        self.head.eval()
        rows = np.flatnonzero(~data.validation)
        images = self.head(self._tensors["image_features"][torch.from_numpy(rows).to(self._device)])
        drawn = self.head(torch.from_numpy(np.require(data.generated, requirements=["C", "W"])).to(self._device))
        block = Block(rows, images.float().cpu().numpy(), data.image_class[rows])
        found = top_k(
            drawn.float().cpu().numpy(),
            [block],
            k=self.config.num_negatives,
            query_classes=data.text_class,
            device=self._device.type,
        )
        return np.where(data.generated.any(1)[:, None], found.rows, -1)

    def _loss(self, batch: Batch) -> torch.Tensor:
        """This worker's part of the loss; the mean over workers is the loss of the whole batch."""
        mine = batch.part(self._rank, self._world_size)
        features, size = self._tensors["image_features"], len(mine.texts)
        negatives = torch.from_numpy(mine.negatives).to(self._device)
        rows = torch.cat([torch.from_numpy(mine.images).to(self._device), negatives.clamp(min=0).flatten()])
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._device.type == "cuda"):
            vectors = self._model(features[rows]).float()  # one call, since DDP expects one per step
        images, reflective = vectors[:size], vectors[size:].view(*negatives.shape, vectors.shape[1])
        if self._world_size > 1:
            images = _Gathered.apply(images)
        return reflective_loss(
            self._tensors["text_features"][torch.from_numpy(mine.texts).to(self._device)],
            images,
            self._tensors["image_class"][torch.from_numpy(batch.images).to(self._device)],
            reflective if negatives.shape[1] else None,
            negatives >= 0,
            temperature=self.config.temperature,
            temperature_on_reflective=self.config.temperature_on_reflective,
            first=self._rank * size,
        )

    @torch.inference_mode()
    def _precision_at_1(self) -> float:
        """Share of the texts whose nearest validation image has their class; NaN without validation images."""
        rows = np.flatnonzero(self.data.validation)
        asked = np.flatnonzero(np.isin(self.data.text_class, self.data.image_class[rows]))
        if not len(asked):
            return float("nan")
        asked = asked[:: -(-len(asked) // MOST_VALIDATION_TEXTS)]
        images = self.head(self._tensors["image_features"][torch.from_numpy(rows).to(self._device)])
        texts = self._tensors["text_features"][torch.from_numpy(asked).to(self._device)]
        nearest = torch.cat([(part @ images.T).argmax(dim=1) for part in texts.split(1024)]).cpu().numpy()
        return float((self.data.image_class[rows[nearest]] == self.data.text_class[asked]).mean())

    def _keep(self, key: int) -> None:
        self._kept[key] = {name: tensor.detach().cpu().clone() for name, tensor in self.head.state_dict().items()}

    def result(self) -> Trained:
        """The head of the best epoch, the curves and the kept heads."""
        heads = {key: self._head_of(key, self.best_epoch if key == 0 else key) for key in sorted(self._kept)}
        return Trained(heads.pop(0), self.curves, heads)

    def _head_of(self, key: int, epoch: int) -> Head:
        training = {name: value for name, value in asdict(self.config).items() if name != "label"}
        spec = HeadSpec(**asdict(self.head.spec) | {"training": training, "epoch": epoch})
        head = _seeded(spec, 0)  # keeps the caller's random state
        head.load_state_dict(self._kept[key])
        return head.eval()

    def save(self, folder: Path) -> None:
        """Writes the state that `restore` needs to continue as if uninterrupted."""
        from safetensors.torch import save_file

        folder.mkdir(parents=True, exist_ok=True)
        state = {f"head/{name}": tensor for name, tensor in self.head.state_dict().items()}
        for number, values in self._optimizer.state_dict()["state"].items():
            state |= {f"optimizer/{number}/{name}": value for name, value in values.items()}
        for key, kept in self._kept.items():
            state |= {f"kept/{key}/{name}": tensor for name, tensor in kept.items()}
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}, folder / _TENSORS)
        facts: dict[str, Any] = {"epoch": self.epoch, "best_epoch": self.best_epoch, "curves": self.curves}
        (folder / _FACTS).write_text(json.dumps(facts))

    def restore(self, folder: Path) -> None:
        """Restores the state that `save` wrote."""
        from safetensors.torch import load_file

        grouped: dict[str, dict[str, dict[str, torch.Tensor]]] = {"head": {"": {}}, "optimizer": {}, "kept": {}}
        for path, tensor in load_file(folder / _TENSORS).items():
            kind, _, name = path.partition("/")
            key, _, name = ("", "", name) if kind == "head" else name.partition("/")
            grouped[kind].setdefault(key, {})[name] = tensor
        self.head.load_state_dict(grouped["head"][""])
        state = self._optimizer.state_dict()
        self._optimizer.load_state_dict(state | {"state": {int(k): v for k, v in grouped["optimizer"].items()}})
        self._kept = {int(key): values for key, values in grouped["kept"].items()}
        facts = json.loads((folder / _FACTS).read_text("utf-8"))
        self.epoch, self.best_epoch, self.curves = facts["epoch"], facts["best_epoch"], facts["curves"]


class _Gathered(torch.autograd.Function):
    """Gathers `[b, D]` of each worker to `[N, D]` in worker order; the backward pass sums all workers' gradients."""

    @staticmethod
    def forward(ctx: Any, mine: torch.Tensor) -> torch.Tensor:
        parts = [torch.empty_like(mine) for _ in range(torch.distributed.get_world_size())]
        torch.distributed.all_gather(parts, mine.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        total = gradient.contiguous()
        torch.distributed.all_reduce(total)
        return total.chunk(torch.distributed.get_world_size())[torch.distributed.get_rank()]


def fit_head(data: RetrieverData, config: TrainingConfig, device: str = "cpu") -> Trained:
    """Trains one head on this process.

    Raises:
        ValueError: as `Fit` does.
    """
    return Fit(data, config, device).run()


def check_training(data: RetrieverData, config: TrainingConfig, world_size: int = 1) -> None:
    """Raises ValueError if a setting is invalid, or the batch does not fit the data or the workers."""
    config.check()
    if config.num_negatives and not (data.negatives >= 0).any():
        raise ValueError(f"{config.label} needs reflective negatives and there are none; mine them first")
    if config.num_negatives and config.remine and data.generated is None:
        raise ValueError(
            f"{config.label} mines anew and the data hold no generated images' embeddings; give them, or leave remine out"
        )
    if config.batch_size % world_size or len(data.text_class) < world_size:
        raise ValueError(
            f"a batch of {config.batch_size} texts cannot be shared out to {world_size} workers; give a multiple of them"
        )


@lru_cache(maxsize=1)  # heads that are trained one after the other share the features
def _on_device(data: RetrieverData, device: torch.device) -> dict[str, torch.Tensor]:
    return {
        # torch warns about Arrow's read-only memory
        name: torch.from_numpy(np.require(getattr(data, name), requirements=["C", "W"])).to(device)
        for name in ("text_features", "image_features", "image_class")
    }


def _seeded(spec: HeadSpec, seed: int) -> Head:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Head(spec)
