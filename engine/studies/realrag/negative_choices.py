"""Ways to choose the negatives that a head learns from: controls of the reflective ones, and one that uses them selectively."""

from collections.abc import Sequence

import numpy as np

from engine.evaluation import LinearProbe, fit_linear_probe
from engine.retriever.blocks import Block
from engine.retriever.data import RetrieverData
from engine.retriever.exact_search import top_k


def random_negatives(data: RetrieverData, k: int, seed: int = 0) -> np.ndarray:
    """`[T, k]` images of other classes at random; -1 where the sampled one is of the text's own class."""
    found = np.random.default_rng(seed).integers(len(data.image_class), size=(len(data.text_class), k))
    found[data.image_class[found] == data.text_class[:, None]] = -1
    return found


def image_hard_negatives(data: RetrieverData, k: int) -> np.ndarray:
    """`[T, k]` images of other classes nearest to a real image of the text's own class: hard negatives without a generator.

    The texts of a class take its training images in turn, as each has a generated image of its own where negatives are
    reflective. If these do as well as reflective negatives, the generator adds nothing beyond hard-negative mining.
    """
    rows = np.flatnonzero(~data.validation)
    own = {label: rows[data.image_class[rows] == label] for label in np.unique(data.text_class)}
    turn: dict[int, int] = dict.fromkeys(own, 0)
    asked = np.empty(len(data.text_class), np.int64)
    for number, label in enumerate(data.text_class):
        asked[number] = own[label][turn[label] % len(own[label])]
        turn[label] += 1
    block = Block(rows, data.image_features[rows], data.image_class[rows])
    found: np.ndarray = top_k(data.image_features[asked], [block], k=k, query_classes=data.text_class).rows
    return found


def oracle_negatives(data: RetrieverData, names: Sequence[str], k: int, seed: int = 0) -> np.ndarray:
    """`[T, k]` training images of the classes whose names share their last word with the text's class; -1 without any.

    Siblings are known by their names, so this is an upper bound of what hard negatives can do, and no method.

    Args:
        data: training data.
        names: class number → data set and name; siblings are of one data set.
        k: negatives per text.
        seed: of the choice among the siblings' images.

    Raises:
        ValueError: no class has a sibling.
    """
    genus = np.array([_genus(name) for name in names])
    rows = np.flatnonzero(~data.validation)
    found = np.full((len(data.text_class), k), -1)
    random = np.random.default_rng(seed)
    for label in np.unique(data.text_class):
        siblings = rows[(genus[data.image_class[rows]] == genus[label]) & (data.image_class[rows] != label)]
        if len(siblings):
            texts = np.flatnonzero(data.text_class == label)
            found[texts] = random.choice(siblings, size=(len(texts), k))
    if (found < 0).all():
        raise ValueError(
            "oracle needs classes that share the last word of their names, as the species of a genus; leave out the method"
        )
    return found


def _genus(name: str) -> str:
    dataset, _, own = name.partition("/")
    return f"{dataset}/{(own.split() or [''])[-1].lower()}"


def training_probe(data: RetrieverData) -> LinearProbe:
    """A linear probe on the frozen encoder's features of the images that heads learn from, over all class numbers."""
    rows = ~data.validation
    return fit_linear_probe(
        data.image_features[rows], data.image_class[rows], num_classes=int(data.image_class.max()) + 1
    )


def selective_negatives(data: RetrieverData) -> np.ndarray:
    """`[T, K]` reflective negatives, but only of the texts whose generated image shows another class; -1 for the others.

    A linear probe on the frozen encoder's features of the real training images decides, which is not the judge of the study. So
    classes that the generator draws rightly are not pushed away from what it knows. Raises ValueError without generated images.
    """
    if data.generated is None:
        raise ValueError("selective needs the generated images of the training prompts; generate and embed them first")
    probe = training_probe(data)
    is_there = data.generated.any(axis=1)
    shown = np.where(is_there, probe.predict(data.generated).numpy(), data.text_class)
    return np.where((shown != data.text_class)[:, None], data.negatives, -1)
