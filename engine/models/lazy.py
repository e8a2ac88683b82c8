"""An encoder that is loaded when it is first used."""

import json
import threading
from pathlib import Path
from typing import Any

from engine.models.encoder import ImageEncoder, default_batch_size, load_encoder
from engine.models.registry import embedding_name, encoder_source

_LOADING = threading.Lock()
"""Held while an encoder is loaded, so that two threads do not load it twice."""


class LazyEncoder(ImageEncoder):
    """An `ImageEncoder` that loads its weights on the first access to an attribute that needs them.

    `source`, `name`, `device`, `batch_size` and, for a folder, `dimension` need neither torch nor open_clip nor the weights.
    A finished run needs only these, and loading takes seconds.
    """

    def __init__(self, source: str, *, device: str = "cpu", batch_size: int | None = None):
        """The arguments are those of `load_encoder`.

        Raises:
            ValueError: unknown name; pickled or missing weights.
        """
        self.source = source
        self.device = device
        self.batch_size = batch_size or default_batch_size(device)
        self.name = embedding_name(source)

    @property
    def dimension(self) -> int:
        """Length of an embedding."""
        if "_model" not in self.__dict__:
            location = encoder_source(self.source)
            config = Path(location.removeprefix("local-dir:")) / "open_clip_config.json"
            if location.startswith("local-dir:") and config.is_file():
                found = json.loads(config.read_text("utf-8")).get("model_cfg", {}).get("embed_dim")
                if isinstance(found, int):
                    return found
        return int(self._model.visual.output_dim)

    def __getattr__(self, name: str) -> Any:
        """Loads the encoder and copies its attributes, on the first access to one that is missing here."""
        # pickle and copy look up methods before any attribute is set
        if name.startswith("__") or "source" not in self.__dict__:
            raise AttributeError(name)
        with _LOADING:
            if "_model" not in self.__dict__:
                self.__dict__.update(vars(load_encoder(self.source, device=self.device, batch_size=self.batch_size)))
        try:
            return self.__dict__[name]
        except KeyError:
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}") from None
