"""The images of a split by class: read once, part by part, then kept beside the other caches."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import lru_cache
from hashlib import blake2b

import numpy as np

from engine.cache import cached_arrays
from engine.catalog.account import Account, Left
from engine.catalog.corpus import key_name, open_layout
from engine.catalog.labels import find_labels, misfit
from engine.catalog.layouts import Layout
from engine.catalog.layouts.layout import HELD_OUT, Part, common_rule
from engine.catalog.splits import candidates, listed

READERS = 8
"""Parts that are read at once: over a network the wait is long and the work little."""
MAX_REFUSED = 0.2
"""Share of a split's items that may be refused; with more the data set is refused …"""
FEW = 200
"""… but of fewer items than this, all below one half."""
MISFIT = "a label that does not fit the class names"
"""Reason of the images that a split has and its data set cannot use."""
EDITION = 2
"""Of the entries in the cache; increase it when the readers or the entries change."""


@dataclass(frozen=True, eq=False)
class SplitIndex:
    """Keys and texts of a split's images, in the order of its parts."""

    keys: np.ndarray
    """`[N]` keys for `engine.catalog.corpus.read_images`, an array of `str` objects."""
    texts: np.ndarray
    """`[N]` class indices, class names, multi-hot digits or captions, by `kind`; an array of `str` objects."""
    fingerprint: str
    """Hash of the parts' names and sizes; a recipe names it as the corpus' revision."""
    kind: str = "index"
    """Kind of the texts: `index`, `name`, `multi_hot` or `caption`."""
    account: Account = field(default_factory=Account)
    """Items of the split's parts: used, ignored and refused."""
    split: str = ""
    """The split that was read: `validation` where it stands in for `test`."""

    def labels(self, class_names: tuple[str, ...], location: str) -> np.ndarray:
        """Class indices `[N] int64`, or `[N, C] int64` of 0 and 1 where an image has several labels.

        Raises:
            ValueError: a label is out of range, matches no class name, or has another number of classes.
        """
        labels, is_valid = find_labels(self.kind, self.texts, class_names, location)
        if not is_valid.all():
            raise ValueError(f"{location}: {misfit(self.kind, str(self.texts[np.argmin(is_valid)]), class_names)}")
        return labels

    def labelled(self, class_names: tuple[str, ...], location: str) -> "SplitIndex":
        """The index of those images whose labels fit the class names; the account has the others as refused.

        Raises:
            ValueError: so many do not fit that the data set is refused; or as `labels`.
        """
        _, is_valid = find_labels(self.kind, self.texts, class_names, location)
        if is_valid.all():
            return self
        if _are_too_many(int((~is_valid).sum()), len(self.keys)):
            self.labels(class_names, location)
        names = [
            f"{key_name(str(self.keys[number]))} ({str(self.texts[number])[:40]!r})"
            for number in np.flatnonzero(~is_valid)
        ]
        account = self.account.with_refused(MISFIT, names)
        return replace(self, keys=self.keys[is_valid], texts=self.texts[is_valid], account=account)

    def by_class(self, class_names: tuple[str, ...], location: str) -> list[np.ndarray]:
        """Positions of the images of each class, `C` arrays; an image with several labels is in several.

        Raises:
            ValueError: as `labels`, or a class has no image.
        """
        labels = self.labels(class_names, location)
        if labels.ndim == 2:
            positions = [np.flatnonzero(column) for column in labels.T]
        else:
            order = np.argsort(labels, kind="stable")
            positions = np.split(order, np.searchsorted(labels[order], np.arange(1, len(class_names))))
        for name, found in zip(class_names, positions, strict=True):
            if not len(found):
                where = f"in split {self.split}" if self.split else "in this split"
                raise ValueError(f"{location}: class {name!r} has no image {where}; add images, or leave out the class")
        return positions


def index_split(location: str, split: str, text_suffix: str = "cls") -> SplitIndex:
    """The index of a split; the folder is listed each time, and parts that have not changed (names, sizes, times) come from the cache.

    Where the test split has no labels, as data sets of competitions have it, the validation split stands in for it.

    Args:
        location: folder or URL.
        split: `train` or `test`, or another word for one of the three splits (`engine.catalog.splits`).
        text_suffix: the member beside a shard's image that is read, `cls`, `npy` or `txt`.

    Raises:
        ValueError: the split is missing or broken, or too much of it is refused.
    """
    layout = open_layout(location)
    if text_suffix == "txt" and layout.kind != "index":
        raise ValueError(
            f"{location} holds {layout.title}, which have no captions; give shards of .webp and .txt members"
        )
    there = layout.splits()
    names = [name for name in candidates(split) if name in there] or ([""] if there == ("",) else [])
    if not names or (names == [""] and split not in ("train", "test")):
        raise ValueError(
            f"{location} has no split '{split}' (there is {listed(name for name in there if name)}); {layout.advice(split)}"
        )
    for name in names:
        index = _read_split(layout, name, split, text_suffix)
        lost = sum(tally.count for _, tally in index.account.lost())
        if len(index.keys) or not lost:
            break
    if _are_too_many(lost, len(index.keys) + lost):
        reason, tally = next(index.account.lost())
        raise ValueError(
            f"{location}: {lost:,} of {len(index.keys) + lost:,} items of split '{name or split}' cannot be used, the first "
            f"of them {tally.names[0]} ({reason})"
        )
    return index


def _are_too_many(refused: int, total: int) -> bool:
    if not refused:
        return False
    return 2 * refused >= total if total < FEW else refused > MAX_REFUSED * total


@dataclass(frozen=True)
class _Request:
    """All that decides an index, and the layout to read it with."""

    location: str
    name: str
    """The split's, empty where the folder has none."""
    split: str
    """`train` or `test` where a fifth is held out."""
    text_suffix: str
    parts: tuple[Part, ...]
    layout: Layout = field(compare=False)


def _read_split(layout: Layout, name: str, split: str, text_suffix: str) -> SplitIndex:
    request = _Request(
        layout.folder.location, name, "" if name else split, text_suffix, tuple(layout.parts(name)), layout
    )
    return _load_or_read(request)


@lru_cache(maxsize=64)
def _load_or_read(request: _Request) -> SplitIndex:
    parts = request.parts
    fingerprint = blake2b(json.dumps([[part.name, part.size] for part in parts]).encode(), digest_size=8).hexdigest()
    with ThreadPoolExecutor(READERS) as pool:
        arrays = list(pool.map(lambda part: _read_part(request, part), parts))
    account = Account()
    for part in arrays:
        account.merge(Account.from_json(part["account"].tobytes().decode()))
    keys, texts = (
        np.concatenate([_unpack(part[name], part[f"{name}_ends"]) for part in arrays] or [_strings([])])
        for name in ("keys", "texts")
    )
    kind = request.layout.kind
    kind = {"txt": "caption", "npy": "multi_hot"}.get(request.text_suffix, kind) if kind == "index" else kind
    return SplitIndex(keys, texts, fingerprint, kind, account, request.name or request.split)


def _read_part(request: _Request, part: Part) -> Mapping[str, np.ndarray]:
    layout = request.layout

    def read() -> dict[str, np.ndarray]:
        keys, texts, account = [], [], Account()
        for item in layout.samples(part.name, request.split, request.text_suffix):
            if isinstance(item, Left):
                account.leave(item)
                continue
            keys.append(item.key)
            texts.append(item.text)
            name = key_name(item.key)
            if item.problem:
                account.add("refused", item.problem, name, planned=True)
            else:
                account.add("used", "", name)
        arrays = {"account": np.frombuffer(account.to_json().encode(), np.uint8)}
        for name, strings in (("keys", keys), ("texts", texts)):
            arrays[name], arrays[f"{name}_ends"] = _pack(strings)
        return arrays

    if layout.is_listing:
        return read()
    inputs = {"location": request.location, "split": request.split, "text_suffix": request.text_suffix}
    return cached_arrays("index", inputs | {"part": list(part)}, read, edition=EDITION)


def _pack(strings: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """UTF-8 bytes of all, and where each ends: as much as they are long, where an array of fixed width takes the longest for each."""
    encoded = [each.encode() for each in strings]
    ends = np.cumsum([len(each) for each in encoded], dtype=np.int64) if encoded else np.zeros(0, np.int64)
    return np.frombuffer(b"".join(encoded), np.uint8), ends


def _unpack(data: np.ndarray, ends: np.ndarray) -> np.ndarray:
    whole, starts = data.tobytes(), [0, *ends[:-1].tolist()]
    return _strings([whole[start:end].decode() for start, end in zip(starts, ends.tolist(), strict=False)])


def _strings(values: list[str]) -> np.ndarray:
    strings = np.empty(len(values), object)  # numpy's own strings of variable length crash in np.unique (2.4)
    strings[:] = values
    return strings


def account_of(location: str, splits: Sequence[str], read: Callable[[str], SplitIndex]) -> dict[str, Account]:
    """Split → account of its items; under the empty name, of the files that no split of these has.

    Every file of the location is in one of them, once: a shard or a table whose split is read by its items.

    Args:
        location: folder or URL.
        splits: those that are read, `train` and `test` or one of them.
        read: split → its index.
    """
    layout = open_layout(location)
    are_shared = layout.splits() == ("",)
    accounts: dict[str, Account] = {}
    for split in splits:
        index = read(split)
        account = index.account
        if are_shared and accounts:  # both splits are of the same parts, and what neither has is in the first account
            account = account.where(
                lambda verdict, reason, tally: verdict == "used" or reason == MISFIT or tally.planned
            )
        elif are_shared and len(splits) > 1:
            account = account.where(lambda verdict, reason, tally: reason != HELD_OUT)
        accounts[index.split] = account
    rest = accounts[""] = Account()
    split_of = {file: name for name in layout.splits() for file in _files(layout, name)}
    for file in layout.folder.files.values():
        name = split_of.get(file.name)
        if name is None:
            rest.leave(common_rule(file) or layout.left_out(file))
        elif name and name not in accounts:
            rest.add("ignored", f"of split {name}, which is not used", file.name)
    return accounts


def _files(layout: Layout, split: str) -> Iterator[str]:
    for part in layout.parts(split):
        yield from layout.files_of(part.name)
