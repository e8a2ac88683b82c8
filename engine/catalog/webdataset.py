"""The layout of `clip-benchmark/wds_*`: tar shards of `sNNNNNNN.{webp,cls}` (`.npy` for several labels, `.txt` for captions)."""

import io
import posixpath
import tarfile
from collections.abc import Iterator
from typing import IO

import numpy as np

from engine.catalog.folder import IMAGE_SUFFIXES, Folder, Part, Sample


class WebDataset(Folder):
    """One split of tar shards."""

    kind = "index"
    """`.cls` holds class indices."""

    def class_names(self) -> list[str]:
        """None of its own: `classnames.txt` has them."""
        return []

    def parts(self) -> list[Part]:
        """The split's shards, as `nshards.txt` counts them.

        Raises:
            ValueError: the split or one of its shards is missing.
        """
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
        files = self.files(self.split)
        names = [f"{self.split}/{number}.tar" for number in range(num_shards)]
        for name in names:
            if name not in files:
                raise ValueError(
                    f"shard {self.location}/{name} is missing ({num_shards} are listed); copy the data set again"
                )
        return [self.part(name, files[name]) for name in names]

    def samples(self, part: str, text_suffix: str = "cls") -> Iterator[Sample]:
        """Every image of a shard, in its order.

        Raises:
            ValueError: the shard is no tar or is cut off, or an image has no label.
        """
        images: dict[str, str] = {}
        texts: dict[str, str] = {}
        try:
            with self.open(part) as file, tarfile.open(fileobj=file, mode="r:") as tar:
                end = file.seek(0, io.SEEK_END)
                file.seek(0)
                for member in tar:
                    if not member.isfile():
                        continue
                    stem, _, suffix = posixpath.basename(member.name).partition(".")
                    if member.offset_data + member.size > end:
                        raise tarfile.ReadError("cut off inside a member")
                    if suffix == text_suffix:
                        content = tar.extractfile(member)
                        assert content is not None
                        texts[stem] = self._text(content, f"{part}: {member.name}", text_suffix)
                    elif suffix in IMAGE_SUFFIXES:
                        images[stem] = f"{part}:{member.offset_data}:{member.size}:{stem}"
                # tarfile ends silently at a cut between members, but a whole tar closes with two empty blocks
                if tar.offset + tarfile.BLOCKSIZE > end:
                    raise tarfile.ReadError("the end of the archive is missing")
        except (tarfile.TarError, EOFError) as error:
            raise ValueError(f"shard {self.location}/{part} is broken ({error}); copy it again") from None
        for stem, key in images.items():
            if stem not in texts:
                raise ValueError(
                    f"shard {self.location}/{part}: image {stem} has no .{text_suffix} beside it; mend the shard"
                )
            yield Sample(key, texts[stem])

    def _text(self, content: IO[bytes], where: str, suffix: str) -> str:
        if suffix != "npy":
            return content.read().decode("utf-8").strip()
        try:
            labels = np.load(io.BytesIO(content.read()), allow_pickle=False)
        except (ValueError, EOFError) as error:
            raise ValueError(f"{self.location}/{where} is no array of labels ({error}); write it again") from None
        if labels.ndim != 1 or not np.isin(labels, (0, 1)).all():
            raise ValueError(f"{self.location}/{where} is not multi-hot; give one 0 or 1 for each class")
        return "".join("1" if label else "0" for label in labels)
