"""Stage `caption filter`: how similar an image's own caption is to the name of its class (GenBench section 4).

A captioner (BLIP-2) describes the image, and a language model (BERT) compares the description with the class name. The score is
stored and the image stays, so that another threshold chooses among stored images and needs no new download.
"""

from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from engine.models.text import load_captioner, load_text_similarity
from engine.sources.fetched import SCORE

PAPER_THRESHOLD = 0.8


@dataclass
class CaptionFilter:
    """Adds a caption to each image and its similarity to the class name; those who read the images compare it with a threshold."""

    captioner: str = "blip2"
    """Name, Hub id or folder of the captioner."""
    similarity: str = "bert"
    """Name, Hub id or folder of the model that compares texts."""
    batch_size: int = 8
    num_gpus: float = 1.0
    needs_gpu: bool = False
    rejects: bool = False
    name: str = "caption filter"
    inputs: tuple[str, ...] = ("class_name",)
    preprocessing: None = None
    _models: Any = field(default=None, repr=False, compare=False)
    _names: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)
    """Class name → its embedding."""

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_models": None, "_names": {}}

    @property
    def columns(self) -> pa.Schema:
        """The caption and its similarity."""
        return pa.schema([("made_caption", pa.string()), (SCORE, pa.float32())])

    def load(self, device: str) -> None:
        """Loads both models."""
        self._models = (
            load_captioner(self.captioner, device=device, batch_size=self.batch_size),
            load_text_similarity(self.similarity, device=device),
        )

    def __call__(self, block: pa.RecordBatch, pixels: Any) -> pa.RecordBatch:
        """One row per image."""
        captioner, similarity = self._models
        names, captions = block.column("class_name").to_pylist(), captioner.caption(list(pixels))
        new = [name for name in dict.fromkeys(names) if name not in self._names]
        self._names |= dict(zip(new, similarity.embed(new), strict=True))
        vectors = similarity.embed(captions)
        scores = [float(vector @ self._names[name]) for vector, name in zip(vectors, names, strict=True)]
        return pa.RecordBatch.from_arrays(
            [pa.array(captions, pa.string()), pa.array(scores, pa.float32())], schema=self.columns
        )
