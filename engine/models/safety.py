"""Safety checkers: models that say of an image how likely it is unsafe (nudity, violence, whatever they were trained for).

Two classes of the libraries do the work: transformers' image classifiers, and diffusers' `StableDiffusionSafetyChecker`. A checker is
loaded by a name of `safety.toml`, a Hub id (`owner/name` or `owner/name@revision`) or a folder, from safetensors only and without
code from its repository. Batches are padded to one size, so that the score of an image does not depend on its companions.
"""

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.models.loading_errors import loading_errors
from engine.models.weights import folder_revision
from engine.names import unknown_name

if TYPE_CHECKING:
    import torch

KIND = "safety checker"
OF_DIFFUSERS = "StableDiffusionSafetyChecker"
PREFIX = "safety_"
"""Beginning of the names of the columns that hold scores."""
REVISION_DIGITS = 8


@cache
def _known() -> dict[str, dict[str, Any]]:
    return tomllib.loads(files("engine.models").joinpath("safety.toml").read_text("utf-8"))


def checker_names() -> list[str]:
    """Names that `safety.toml` knows."""
    return list(_known())


@dataclass(frozen=True)
class CheckerFacts:
    """A checker, known from its configuration alone."""

    source: str
    """Folder or Hub id."""
    revision: str
    """Hash of the folder's weights, or the Hub's commit."""
    flagged: tuple[str, ...]
    """Labels that count as unsafe; empty for a checker of diffusers."""
    is_of_diffusers: bool

    @property
    def name(self) -> str:
        """Name with the revision, as reports and cards show it."""
        last = self.source.rstrip("/").rsplit("/", 2)[-1] if Path(self.source).is_dir() else self.source
        labels = f" ({', '.join(self.flagged)})" if self.flagged else ""
        return f"{last}@{self.revision[:REVISION_DIGITS]}{labels}"

    @property
    def column(self) -> str:
        """Name of the column of its scores: one per checker, revision and choice of labels, so that scores never mix."""
        plain = "".join(letter if letter.isalnum() else "_" for letter in self.name.lower())
        return PREFIX + "_".join(part for part in plain.split("_") if part)


def describe_checker(name: str, flagged: Sequence[str] = ()) -> CheckerFacts:
    """Reads a checker's configuration, not its weights.

    Args:
        name: name of `safety.toml`, Hub id or folder.
        flagged: labels that count as unsafe; those of `safety.toml` by default.

    Raises:
        ValueError: unknown name; no configuration; pickled weights in a folder; a label that the model does not have, or none given.
    """
    entry = _known().get(name, {})
    source, revision = _place(name)
    local = Path(source).is_dir()
    if not entry and not local and "/" not in source:
        raise ValueError(unknown_name(KIND, name, checker_names(), "or give a Hub id or a folder"))
    found = folder_revision(Path(source)) if local else ""

    from transformers import AutoConfig

    with loading_errors(KIND, name):
        config = AutoConfig.from_pretrained(source, trust_remote_code=False, **_where(source, revision))
    found = found or getattr(config, "_commit_hash", None) or revision or "main"
    if OF_DIFFUSERS in (config.architectures or []):
        if flagged:
            raise ValueError(f"{KIND} {name} has no labels, only yes or no; leave out --flag")
        return CheckerFacts(source, found, (), True)
    labels = [str(label) for label in config.id2label.values()]
    chosen = tuple(flagged or entry.get("flagged", ()))
    if not chosen:
        raise ValueError(
            f"{KIND} {name} has the labels {', '.join(map(repr, labels))}; say which are unsafe with --flag LABEL"
        )
    for label in chosen:
        if label not in labels:
            raise ValueError(unknown_name(f"label of {KIND} {name}", label, labels))
    return CheckerFacts(source, found, chosen, False)


def _place(name: str) -> tuple[str, str]:
    """Folder or Hub id, and the revision that is asked for; a folder may have an @ in its name."""
    if Path(name).is_dir():
        return name, ""
    source, _, revision = _known().get(name, {}).get("repository", name).partition("@")
    return source, revision


def _where(source: str, revision: str) -> dict[str, Any]:
    return {"local_files_only": Path(source).is_dir()} | ({"revision": revision} if revision else {})


class SafetyChecker:
    """A loaded checker."""

    def __init__(self, facts: CheckerFacts, device: str = "cpu", batch_size: int = 16):
        """Loads the weights. Raises ValueError if they are pickled, missing or do not fit."""
        import transformers

        self.facts, self.batch_size, self._device = facts, batch_size, device
        revision = facts.revision if not Path(facts.source).is_dir() else ""
        where = _where(facts.source, revision) | {"trust_remote_code": False}
        with loading_errors(KIND, facts.source):
            self._processor = transformers.AutoImageProcessor.from_pretrained(facts.source, **where)
            # the class of diffusers has no code to trust, and does not take the word
            more = {
                key: value for key, value in where.items() if not (facts.is_of_diffusers and key.startswith("trust"))
            }
            model = _model_class(facts).from_pretrained(facts.source, use_safetensors=True, **more)
        self._model = model.to(device).eval().float().requires_grad_(False)

    def score(self, images: "Sequence[torch.Tensor]") -> np.ndarray:
        """`[N]` float32 from 0 to 1 for uint8 images `[3, H, W]`: the probability of the flagged labels.

        A checker of diffusers says 1 or 0. A score that is not finite is one that the model could not compute.
        """
        found = [np.zeros(0, np.float32)]
        for start in range(0, len(images), self.batch_size):
            batch = list(images[start : start + self.batch_size])
            padded = batch + batch[-1:] * (self.batch_size - len(batch))
            found.append(self._score(padded)[: len(batch)])
        return np.concatenate(found)

    def _score(self, images: "list[torch.Tensor]") -> np.ndarray:
        import torch

        pixels = self._processor(
            images=[image.cpu() for image in images], return_tensors="pt", input_data_format="channels_first"
        )["pixel_values"].to(self._device)
        with torch.inference_mode():
            if self.facts.is_of_diffusers:
                # it blackens what it flags, so it gets something else to blacken
                flags = self._model(clip_input=pixels, images=[np.zeros(1) for _ in images])[1]
                return np.array(flags, np.float32)
            logits = self._model(pixels).logits.float()
        labels = [str(label) for label in self._model.config.id2label.values()]
        columns = [labels.index(label) for label in self.facts.flagged]
        if len(labels) == 1 or self._model.config.problem_type == "multi_label_classification":
            scores = logits.sigmoid()[:, columns].amax(1)
        else:
            scores = logits.softmax(1)[:, columns].sum(1).clamp(max=1.0)
        found: np.ndarray = scores.cpu().numpy().astype(np.float32)
        return found


def _model_class(facts: CheckerFacts) -> Any:
    if not facts.is_of_diffusers:
        from transformers import AutoModelForImageClassification

        return AutoModelForImageClassification
    import logging

    from diffusers.pipelines.stable_diffusion import safety_checker

    logging.getLogger(safety_checker.__name__).setLevel(logging.ERROR)  # it warns at every image that it flags
    return safety_checker.StableDiffusionSafetyChecker
