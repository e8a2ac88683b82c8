"""Training images and captions of a tiny model, rendered in memory: a split of the world that no data set contains."""

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import torch

from engine.world.captions import prompt_captions
from engine.world.classes import (
    GROUPS,
    PAIRS,
    ImageClass,
    contexts,
    dataset_classes,
    genus,
    nameless_objects,
    nameless_species,
    shown_to_generator,
    taught_classes,
    templates,
)
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
    pairs: int = 0
    """Images per class of `mini-pairs`; 0 leaves the set out."""
    pairs_gap: bool = False
    """Whether the last sibling of each genus is left out, image and name (`shown_to_generator`)."""
    pairs_share: float = 0.3
    """Samples of `mini-pairs` for one of all others."""
    genus_share: float = 0.0
    """Share of the captions of `mini-pairs` that name the genus alone, as text of the web does; less than 1."""
    contexts: int = 0
    """Images per context of each class that is no texture (of a nameless one as many as of it without, at most); 0 leaves contexts out."""
    contexts_share: float = 0.8
    """Samples in a context for one without."""

    def __post_init__(self) -> None:
        """Raises ValueError for a genus share that leaves no name of a species."""
        if not 0 <= self.genus_share < 1:
            raise ValueError(f"genus_share is {self.genus_share}; give a share from 0 to below 1")


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
    contexts: tuple[str, ...]
    """Context of each class; a class in a context is a class of its own here."""
    look: torch.Tensor
    """[C] int64: the class that has the same looks without a context; itself for one without."""

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
    """Renders the images of a split of the world according to `knowledge`; no novel class is among them.

    Named classes come first, those of `mini-pairs` after the others; each is followed by itself in every context, if there are any.
    """
    named: list[_Row] = []
    known = known_classes(knowledge)
    places = [place for _, place in known]
    for item, place in known:
        shots = (knowledge.common, knowledge.fine, knowledge.rare)[place]
        share = knowledge.shares[place] / places.count(place)
        named.append(_Row(item, shots, share, prompt_captions(item.name, templates(item.dataset))))
    if knowledge.pairs:
        shown = shown_to_generator(PAIRS) if knowledge.pairs_gap else [True] * len(dataset_classes(PAIRS))
        siblings = [item for item, is_shown in zip(dataset_classes(PAIRS), shown, strict=True) if is_shown]
        for item in siblings:
            captions = sibling_captions(item.name, knowledge.genus_share)
            named.append(_Row(item, knowledge.pairs, knowledge.pairs_share / len(siblings), captions))
    nameless: list[_Row] = []
    for place, make, num in ((3, nameless_species, knowledge.species), (4, nameless_objects, knowledge.objects)):
        for item, captions in make(seed, num):
            nameless.append(_Row(item, knowledge.images_per_nameless, knowledge.shares[place] / num, captions))
    rows: list[_Row] = []
    look: list[int] = []
    for part in (named, nameless):
        for row in (row for row in part if row.shots > 0 and row.share > 0):
            own = len(rows)
            placed = row.in_contexts(knowledge) if knowledge.contexts and not row.item.texture else []
            rows += [row, *placed]
            look += [own] * (1 + len(placed))
    images = np.concatenate([render(row.item, split, np.arange(row.shots), seed, size, row.context) for row in rows])
    count = torch.tensor([row.shots for row in rows])
    chance = torch.tensor([row.share for row in rows], dtype=torch.float64)
    return Corpus(
        images=torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(),
        first=torch.cumsum(count, 0) - count,
        count=count,
        chance=chance / chance.sum(),
        captions=tuple(tuple(row.captions) for row in rows),
        named=sum(bool(row.item.dataset) for row in rows),
        mirrors=torch.tensor([not row.item.sign for row in rows]),
        contexts=tuple(row.context for row in rows),
        look=torch.tensor(look),
    )


@dataclass(frozen=True)
class _Row:
    """A class of a corpus."""

    item: ImageClass
    shots: int
    share: float
    captions: list[str]
    context: str = ""

    def in_contexts(self, knowledge: Knowledge) -> "list[_Row]":
        """The class in each context."""
        shots = knowledge.contexts if self.item.dataset else min(knowledge.contexts, self.shots)
        share = self.share * knowledge.contexts_share / len(contexts())
        return [
            _Row(self.item, shots, share, [in_context(caption, phrase) for caption in self.captions], phrase)
            for phrase in contexts()
        ]


def in_context(caption: str, phrase: str) -> str:
    """`a photo of a robin.` and `at night` make `a photo of a robin at night`; an empty phrase changes nothing."""
    return f"{caption.rstrip('.')} {phrase}" if phrase else caption


def sibling_captions(name: str, genus_share: float) -> list[str]:
    """Captions of a class of `mini-pairs`, of which about this share (within 3 points) names the genus alone; each is sampled as often."""
    share = Fraction(genus_share).limit_denominator(20)
    of_name, of_genus = (prompt_captions(each, templates(PAIRS)) for each in (name, genus(name)))
    return of_name * (share.denominator - share.numerator) + of_genus * share.numerator


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
