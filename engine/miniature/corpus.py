"""Training images and captions of a tiny model, rendered in memory: a split of the world that no data set contains."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from engine.world.captions import prompt_captions
from engine.world.classes import GROUPS, ImageClass, nameless_objects, nameless_species, taught_classes, templates
from engine.world.render import render


@dataclass(frozen=True)
class Knowledge:
    """Part of the world that a model is trained on, and how often it sees each class."""

    common: int = 1200
    """Images per common class."""
    fine: int = 200
    """Images per fine-grained class."""
    rare: int = 200
    """Images per rare class."""
    gaps: tuple[int, int, int] = (0, 0, 0)
    """Every n-th class of common, fine and rare is left out; 0 leaves none out."""
    species: int = 300
    """Nameless species, described by their attributes."""
    objects: int = 0
    """Nameless objects, described by their parts."""
    images_per_nameless: int = 24
    """Images per nameless species or object."""
    shares: tuple[float, float, float, float, float] = (0.3, 0.35, 0.2, 0.15, 0.0)
    """Share of the training samples: common, fine, rare, species, objects."""


@dataclass(frozen=True)
class Corpus:
    """Images sorted by class, and each class's captions."""

    images: torch.Tensor
    """[N, 3, S, S] uint8."""
    first: torch.Tensor
    """[C] int64: index of each class's first image."""
    count: torch.Tensor
    """[C] int64: images per class."""
    chance: torch.Tensor
    """[C] float64: share of the samples per class; sums to 1."""
    captions: tuple[tuple[str, ...], ...]
    """Captions of each class."""
    named: int
    """Number of classes with names, which come first; the captions of the others describe their appearance alone."""
    mirrors: torch.Tensor
    """[C] bool: true if a mirrored image still shows the class."""

    def sample(self, num: int, rng: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Samples `num` images: their indices [num] int64 and their classes [num] int64."""
        classes = torch.multinomial(self.chance, num, replacement=True, generator=rng)
        offset = (torch.rand(num, generator=rng, dtype=torch.float64) * self.count[classes]).long()
        return self.first[classes] + offset, classes


def known_classes(knowledge: Knowledge) -> list[tuple[ImageClass, int]]:
    """The named classes that a model sees, each with its place in `Knowledge.shares`; every `gaps`-th of a group is left out."""
    known: list[tuple[ImageClass, int]] = []
    for place, group in enumerate(("common", "fine-grained", "rare")):
        members = [item for item in taught_classes() if GROUPS[item.dataset] == group]
        gap = knowledge.gaps[place]
        known += [(item, place) for number, item in enumerate(members, 1) if not gap or number % gap]
    return known


def build_corpus(split: str, knowledge: Knowledge, seed: int, size: int) -> Corpus:
    """Renders the images of a split of the world according to `knowledge`; no novel class is among them."""
    rows: list[tuple[ImageClass, int, float, list[str]]] = []
    known = known_classes(knowledge)
    places = [place for _, place in known]
    for item, place in known:
        shots = (knowledge.common, knowledge.fine, knowledge.rare)[place]
        share = knowledge.shares[place] / places.count(place)
        rows.append((item, shots, share, prompt_captions(item.name, templates(item.dataset))))
    if knowledge.species:
        share = knowledge.shares[3] / knowledge.species
        for item, captions in nameless_species(seed, knowledge.species):
            rows.append((item, knowledge.images_per_nameless, share, captions))
    if knowledge.objects:
        share = knowledge.shares[4] / knowledge.objects
        for item, captions in nameless_objects(seed, knowledge.objects):
            rows.append((item, knowledge.images_per_nameless, share, captions))
    rows = [row for row in rows if row[1] > 0 and row[2] > 0]
    images = np.concatenate([render(item, split, np.arange(shots), seed, size) for item, shots, _, _ in rows])
    count = torch.tensor([shots for _, shots, _, _ in rows])
    chance = torch.tensor([share for _, _, share, _ in rows], dtype=torch.float64)
    return Corpus(
        images=torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(),
        first=torch.cumsum(count, 0) - count,
        count=count,
        chance=chance / chance.sum(),
        captions=tuple(tuple(captions) for *_, captions in rows),
        named=sum(bool(item.dataset) for item, *_ in rows),
        mirrors=torch.tensor([not item.sign for item, *_ in rows]),
    )


def caption_tokens(corpus: Corpus, tokenize: Mapping[str, list[int]], length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """All captions of a corpus as one table.

    Args:
        corpus: whose captions.
        tokenize: caption to token ids, padded to `length`.
        length: tokens per caption.

    Returns:
        Tokens [C, K, length] int64 (rows beyond a class's captions repeat its first) and captions per class [C] int64.
    """
    most = max(len(captions) for captions in corpus.captions)
    table = torch.zeros(len(corpus.captions), most, length, dtype=torch.long)
    for row, captions in zip(table, corpus.captions, strict=True):
        ids = [tokenize[caption] for caption in captions]
        row[:] = torch.tensor((ids + [ids[0]] * most)[:most])
    return table, torch.tensor([len(captions) for captions in corpus.captions])
