"""The will of a site: robots.txt (RFC 9309) and the header X-Robots-Tag."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from urllib.parse import quote, unquote

REFUSING_TAGS = frozenset(("noai", "noimageai", "noindex", "noimageindex", "none"))
"""Directives of X-Robots-Tag with which a picture is left alone; img2dataset's, and `none`, which stands for noindex."""
TAGS_WITH_VALUES = ("unavailable_after", "max-snippet", "max-image-preview", "max-video-preview")


@dataclass
class _Group:
    agents: list[str] = field(default_factory=list)
    rules: list[tuple[str, bool]] = field(default_factory=list)
    """(Pattern, whether it allows)."""


class Robots:
    """The rules of one robots.txt for one crawler."""

    def __init__(self, text: str, agent: str):
        groups = _parsed(text)
        named = [group for group in groups if agent.lower() in group.agents]
        chosen = named or [group for group in groups if "*" in group.agents]
        self._rules = [rule for group in chosen for rule in group.rules]

    def allows(self, path: str) -> bool:
        """Whether the path and query of an address may be fetched: the longest rule that matches decides, allow before disallow."""
        path = _normal(path)
        matching = [(len(pattern), allows) for pattern, allows in self._rules if _matches(pattern, path)]
        return max(matching, default=(0, True))[1]


def _parsed(text: str) -> list[_Group]:
    groups: list[_Group] = []
    in_agents = False
    for line in text.lstrip("\ufeff").splitlines():
        name, colon, value = line.partition("#")[0].partition(":")
        name, value = name.strip().lower(), value.strip()
        if not colon:
            continue
        if name == "user-agent":
            if not in_agents:
                groups.append(_Group())
            groups[-1].agents.append(value.lower().partition("/")[0].strip())
            in_agents = True
        elif name in ("allow", "disallow"):
            in_agents = False
            if groups and value:
                groups[-1].rules.append((value, name == "allow"))
    return groups


def _normal(path: str) -> str:
    return quote(unquote(path), safe="/?&=:@!$'()*+,;%~")


def _matches(pattern: str, path: str) -> bool:
    """Whether a path begins with a pattern of `*` and a last `$`. One piece after another is found, so no pattern is slow."""
    is_anchored = pattern.endswith("$")
    first, *others = _normal(pattern.removesuffix("$")).split("*")
    if not path.startswith(first):
        return False
    place = len(first)
    if is_anchored:
        last = others.pop() if others else None
        if last is None:
            return path == first
        if not path.endswith(last):
            return False
        path = path[: len(path) - len(last)]
        if place > len(path):
            return False
    for piece in others:
        found = path.find(piece, place)
        if found < 0:
            return False
        place = found + len(piece)
    return True


def refusing_tag(headers: Iterable[str], agent: str) -> str:
    """The first directive of the X-Robots-Tag headers that forbids a picture to this crawler; empty if none does."""
    for header in headers:
        is_meant = True
        for part in header.lower().split(","):
            name, colon, rest = part.strip().partition(":")
            if colon and name.strip() not in TAGS_WITH_VALUES:  # `agent: directive` holds for what follows
                is_meant, name = name.strip() == agent.lower(), rest
            if is_meant and name.strip() in REFUSING_TAGS:
                return name.strip()
    return ""
