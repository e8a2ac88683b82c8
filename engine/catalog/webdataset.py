"""Reads the layout of `clip-benchmark/wds_*`: tar shards of `sNNNNNNN.{webp,cls}`, from a folder, the Hub or s3 (fsspec)."""

import posixpath
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import IO, Any

IMAGE_SUFFIXES = ("webp", "jpg", "jpeg", "png")


@dataclass(frozen=True)
class Sample:
    """One image of a shard: where its bytes are, and its label (`.cls`) or caption (`.txt`)."""

    key: str
    """`SHARD:OFFSET:SIZE:NAME`, enough to read the bytes without reading the shard again."""
    text: str
    """Content of the `.cls` or `.txt` member."""


@dataclass(frozen=True)
class WebDataset:
    """One split of a data set on disk or behind a URL."""

    location: str
    """Folder or URL that holds `classnames.txt` and the splits."""
    split: str
    """Folder of the shards: `train` or `test`."""

    @cached_property
    def _filesystem(self) -> tuple[Any, str]:
        import fsspec

        return fsspec.core.url_to_fs(self.location)

    def _open(self, *parts: str) -> IO[bytes]:
        filesystem, root = self._filesystem
        return filesystem.open(posixpath.join(root, *parts), "rb")

    def read_lines(self, name: str) -> list[str]:
        """Lines of a text file of the data set, without empty ones."""
        with self._open(name) as file:
            return [line.strip() for line in file.read().decode("utf-8").splitlines() if line.strip()]

    def shard_names(self) -> list[str]:
        """Names of the split's shards, as `nshards.txt` counts them.

        Raises:
            ValueError: the split or one of its shards is missing.
        """
        filesystem, root = self._filesystem
        try:
            num_shards = int(self.read_lines(f"{self.split}/nshards.txt")[0])
        except FileNotFoundError:
            raise ValueError(
                f"{self.location} has no split '{self.split}' ({self.split}/nshards.txt is missing); "
                "name a folder of the webdataset layout or another split"
            ) from None
        except (ValueError, IndexError):
            raise ValueError(
                f"{self.location}/{self.split}/nshards.txt holds no number; write the count of shards into it"
            ) from None
        names = [f"{self.split}/{number}.tar" for number in range(num_shards)]
        for name in names:
            if not filesystem.exists(posixpath.join(root, name)):
                raise ValueError(
                    f"shard {self.location}/{name} is missing ({num_shards} are listed); copy the data set again"
                )
        return names

    def samples(self, text_suffix: str = "cls") -> Iterator[Sample]:
        """Every image of the split in shard order.

        Raises:
            ValueError: a shard is missing, is no tar or is cut off, or an image has no label.
        """
        for shard in self.shard_names():
            yield from self._shard_samples(shard, text_suffix)

    def _shard_samples(self, shard: str, text_suffix: str) -> Iterator[Sample]:
        images: dict[str, str] = {}
        texts: dict[str, str] = {}
        try:
            with self._open(shard) as file, tarfile.open(fileobj=file, mode="r:") as tar:
                filesystem, root = self._filesystem
                end = filesystem.size(posixpath.join(root, shard))
                for member in tar:
                    if not member.isfile():
                        continue
                    stem, _, suffix = posixpath.basename(member.name).partition(".")
                    if member.offset_data + member.size > end:
                        raise tarfile.ReadError("cut off inside a member")
                    if suffix == text_suffix:
                        content = tar.extractfile(member)
                        assert content is not None
                        texts[stem] = content.read().decode("utf-8").strip()
                    elif suffix in IMAGE_SUFFIXES:
                        images[stem] = f"{shard}:{member.offset_data}:{member.size}:{stem}"
                # tarfile ends silently at a cut between members, but a whole tar closes with two empty blocks
                if tar.offset + tarfile.BLOCKSIZE > end:
                    raise tarfile.ReadError("the end of the archive is missing")
        except (tarfile.TarError, EOFError) as error:
            raise ValueError(f"shard {self.location}/{shard} is broken ({error}); copy it again") from None
        for stem, key in images.items():
            if stem not in texts:
                raise ValueError(
                    f"shard {self.location}/{shard}: image {stem} has no .{text_suffix} beside it; mend the shard"
                )
            yield Sample(key, texts[stem])

    def read_images(self, keys: Sequence[str]) -> list[bytes]:
        """Encoded bytes of the images with these keys, in their order; each shard is opened once."""
        parsed = [key.split(":", 3) for key in keys]
        found: list[bytes] = [b""] * len(keys)
        for shard in dict.fromkeys(parts[0] for parts in parsed):
            with self._open(shard) as file:
                for position, (name, offset, size, _) in enumerate(parsed):
                    if name == shard:
                        file.seek(int(offset))
                        found[position] = file.read(int(size))
        return found
