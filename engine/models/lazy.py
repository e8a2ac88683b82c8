"""An encoder that is known by name at once and loaded when it is first used."""

import json
import threading
from pathlib import Path
from typing import Any

from engine.models.encoder import ImageEncoder, load_encoder
from engine.models.registry import encoder_names, encoder_source
from engine.models.weights import folder_revision

_LOADING = threading.Lock()
"""Held while an encoder is loaded, so that two threads that ask at once do not load it twice."""


class LazyEncoder(ImageEncoder):
    """What `load_encoder` returns, with the loading put off until something is asked that the name and the folder do not tell.

    `source`, `name`, `device`, `batch_size` and, for a folder, `dimension` are known without torch, open_clip or the weights.
    A finished run needs no more than these, and loading takes seconds.
    """

    def __init__(self, source: str, *, device: str = "cpu", batch_size: int = 64):
        """Takes the arguments of `load_encoder`.

        Raises:
            ValueError: unknown name; pickled or missing weights.
        """
        self.source = source
        self.device = device
        self.batch_size = batch_size
        self.name = embedding_name(source)

    @property
    def dimension(self) -> int:
        """Numbers in an embedding."""
        if "_model" not in self.__dict__:
            location = encoder_source(self.source)
            config = Path(location.removeprefix("local-dir:")) / "open_clip_config.json"
            if location.startswith("local-dir:") and config.is_file():
                found = json.loads(config.read_text("utf-8")).get("model_cfg", {}).get("embed_dim")
                if isinstance(found, int):
                    return found
        return int(self._model.visual.output_dim)

    def __getattr__(self, name: str) -> Any:
        """Loads the encoder for the first attribute that only it has, and takes over all that it holds."""
        # pickle and copy ask for methods that are not there before any attribute is
        if name.startswith("__") or "source" not in self.__dict__:
            raise AttributeError(name)
        with _LOADING:
            if "_model" not in self.__dict__:
                self.__dict__.update(vars(load_encoder(self.source, device=self.device, batch_size=self.batch_size)))
        try:
            return self.__dict__[name]
        except KeyError:
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}") from None


def embedding_name(source: str) -> str:
    """Name of the embeddings that the encoder of this name makes (`ImageEncoder.name`), found without loading it.

    Raises:
        ValueError: unknown name; pickled or missing weights.
    """
    location = encoder_source(source)
    if not location.startswith("local-dir:"):
        return source
    folder = Path(location.removeprefix("local-dir:"))
    return f"{source if source in encoder_names() else folder.name}@{folder_revision(folder)[:8]}"
