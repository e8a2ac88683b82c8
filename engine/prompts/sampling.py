"""Choices that depend on nothing but (purpose, seed, data set, class, image number)."""

from collections.abc import Sequence
from hashlib import blake2b

from engine.prompts.parts import PromptRequest


def hash_of(purpose: str, request: PromptRequest) -> int:
    """A 256-bit number."""
    # a hash needs no generator to be set up, so a million prompts are planned in a minute
    text = f"{request.seed}/{request.dataset.name}/{request.class_index}/{request.shot}"
    return int.from_bytes(blake2b(text.encode(), digest_size=32, person=purpose.encode()).digest(), "big")


def each_once_then_sampled(purpose: str, choices: Sequence[str], request: PromptRequest) -> str:
    """Choice number `request.shot`; past the end of the list, one at random (GenBench section 2.2).

    Raises ValueError if there is no choice.
    """
    if not choices:
        raise ValueError(f"{request.dataset.name} has no {purpose} of class {request.class_name!r}; give at least one")
    if request.shot < len(choices):
        return choices[request.shot]
    return choices[hash_of(purpose, request) % len(choices)]


def sample_distinct(num: int, count: int, entropy: int) -> list[int]:
    """`count` different numbers of `range(num)`, every set equally likely (Floyd's sampling)."""
    sampled: list[int] = []
    for last in range(num - count, num):
        entropy, number = divmod(entropy, last + 1)
        sampled.append(last if number in sampled else number)
    return sampled
