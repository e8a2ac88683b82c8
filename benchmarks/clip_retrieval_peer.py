"""clip-retrieval's own inference over a folder of images; `embed_throughput` starts it with the Python of its `--peer-python`.

Imports nothing of ours. Its `clip_inference.main` runs as published; four things around it are set from outside:
- the architecture and the preprocessing of the folder's model, which open_clip otherwise takes from its own names;
- evaluation mode, without which a model with BatchNorm gives other embeddings (2.45.0 leaves open_clip's models in training mode);
- no warm-up, which would need the model's own tokenizer; the steady rate leaves the start out;
- the writer also notes the time of each batch.
"""

import argparse
import functools
import importlib
import json
import os
import time
from pathlib import Path
from typing import Any


def main() -> None:
    """Embeds the images and writes `arrivals.json`, a list of (monotonic seconds, images) per batch, into the output."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("images", "model", "output"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--notes", type=Path, help="folder for a file to which each batch adds its time and its images")
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--workers", type=int, default=4)
    options = parser.parse_args()

    import all_clip.main
    import open_clip

    # the package has a function of the name of this module's folder, so `import … as` does not find the module
    inference = importlib.import_module("clip_retrieval.clip_inference.worker")
    clip_inference = importlib.import_module("clip_retrieval.clip_inference.main").main

    config = json.loads((options.model / "open_clip_config.json").read_text())
    config["model_cfg"]["text_cfg"].pop("hf_tokenizer_name", None)
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "peer.json").write_text(json.dumps(config["model_cfg"]))
    open_clip.add_model_config(options.output / "peer.json")
    pixels = config["preprocess_cfg"]
    create = functools.partial(
        open_clip.create_model_and_transforms,
        image_mean=pixels["mean"],
        image_std=pixels["std"],
        image_interpolation=pixels["interpolation"],
        image_resize_mode=pixels["resize_mode"],
    )

    def create_for_inference(*arguments: Any, **named: Any) -> Any:
        model, *transforms = create(*arguments, **named)
        return model.eval(), *transforms

    open_clip.create_model_and_transforms = create_for_inference
    all_clip.main.warmup = lambda *arguments: None
    arrivals: list[tuple[float, int]] = []

    class NotingWriter(inference.NumpyWriter):
        """The writer of embeddings, with a clock."""

        def __call__(self, batch: Any) -> None:
            super().__call__(batch)
            arrivals.append((time.monotonic(), len(batch["image_filename"])))
            if options.notes:
                with (options.notes / f"{os.getpid()}").open("a") as lines:
                    lines.write(f"{arrivals[-1][0]} {arrivals[-1][1]}\n")

        def flush(self) -> None:
            super().flush()
            arrivals.append((time.monotonic(), 0))

    inference.NumpyWriter = NotingWriter
    clip_inference(
        str(options.images),
        str(options.output),
        clip_model=f"open_clip:peer/{options.model / 'open_clip_model.safetensors'}",
        batch_size=options.batch_size,
        num_prepro_workers=options.workers,
        enable_text=False,
    )
    (options.output / "arrivals.json").write_text(json.dumps(arrivals))


if __name__ == "__main__":
    main()
