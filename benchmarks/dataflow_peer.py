"""Embeds a folder of images with Daft or Ray Data and writes Parquet, as their documentation shows; `resume_peers` starts, kills and resumes it.

Imports nothing of ours. Ray Data resumes by its `CheckpointConfig`; Daft, whose `skip_existing` needs a Ray cluster, by an anti-join with what
it has written. Parquet files that a killed writer left without their end are deleted before, as both would stop on them.
"""

import argparse
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

BATCH = 64


class Embedder:
    """An open_clip folder's image tower; notes each batch."""

    def __init__(self, model: str, notes: str) -> None:
        import open_clip
        import torch
        from safetensors.torch import load_file

        torch.set_num_threads(1)
        config = json.loads((Path(model) / "open_clip_config.json").read_text())
        config["model_cfg"]["text_cfg"].pop("hf_tokenizer_name", None)
        place = Path(notes) / f"peer-{os.getpid()}.json"
        place.write_text(json.dumps(config["model_cfg"]))
        open_clip.add_model_config(place)
        pixels = config["preprocess_cfg"]
        self._model, _, self._transform = open_clip.create_model_and_transforms(
            place.stem,
            image_mean=pixels["mean"],
            image_std=pixels["std"],
            image_interpolation=pixels["interpolation"],
            image_resize_mode=pixels["resize_mode"],
        )
        self._model.load_state_dict(load_file(Path(model) / "open_clip_model.safetensors"))
        self._model.eval()
        self._notes = Path(notes) / f"{os.getpid()}.txt"

    def __call__(self, paths: Sequence[str]) -> Any:
        """`[N, D]` float32, unit norm."""
        import torch
        from PIL import Image

        images = torch.stack([self._transform(Image.open(path).convert("RGB")) for path in paths])
        with torch.no_grad():
            vectors = torch.nn.functional.normalize(self._model.encode_image(images), dim=-1).numpy()
        with self._notes.open("a") as lines:
            lines.write(f"{time.monotonic()} {len(paths)}\n")
        return vectors


class BatchEmbedder(Embedder):
    """The same for Ray Data's batches."""

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:  # type: ignore[override]
        """Adds the vectors."""
        return batch | {"embedding": super().__call__(batch["path"].tolist())}


def drop_broken(folder: Path) -> None:
    """Deletes Parquet files without an end."""
    import pyarrow.parquet as pq

    for path in folder.rglob("*.parquet"):
        try:
            pq.read_metadata(path)
        except Exception:  # whatever Arrow says of half a file
            path.unlink()


def with_ray(options: argparse.Namespace) -> None:
    """Ray Data, with its checkpoints."""
    import ray
    from ray.data import ActorPoolStrategy, DataContext
    from ray.data.checkpoint import CheckpointConfig

    ray.init(num_cpus=options.workers + 1, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    context = DataContext.get_current()
    context.checkpoint_config = CheckpointConfig(
        id_column="id", checkpoint_path=str(options.output / "checkpoint"), delete_checkpoint_on_success=False
    )
    data = ray.data.read_parquet(str(options.index), override_num_blocks=max(8, options.num // 1024))
    data.map_batches(
        BatchEmbedder,
        fn_constructor_args=(str(options.model), str(options.notes)),
        batch_size=BATCH,
        num_cpus=1,
        compute=ActorPoolStrategy(size=options.workers),
    ).write_parquet(str(options.output / "rows"))


def with_daft(options: argparse.Namespace) -> None:
    """Daft's own runner."""
    import daft
    import pyarrow.parquet as pq

    width = json.loads((options.model / "open_clip_config.json").read_text())["model_cfg"]["embed_dim"]

    @daft.udf(  # type: ignore[untyped-decorator]
        return_dtype=daft.DataType.embedding(daft.DataType.float32(), width),
        batch_size=BATCH,
        concurrency=options.workers,
        use_process=True,
    )
    class Embed:
        def __init__(self) -> None:
            self._embedder = Embedder(str(options.model), str(options.notes))

        def __call__(self, paths: Any) -> Any:
            return list(self._embedder(paths.to_pylist()))

    data = daft.read_parquet(str(options.index))
    rows = options.output / "rows"
    if any(pq.read_metadata(path).num_rows for path in rows.rglob("*.parquet")):
        data = data.join(daft.read_parquet(f"{rows}/*.parquet").select("id"), on="id", how="anti")
    data.into_batches(1024).with_column("embedding", Embed(daft.col("path"))).write_parquet(str(rows))


def main() -> None:
    """One run; a second one goes on as far as the engine can."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engine", choices=("ray", "daft"))
    for name in ("index", "model", "output", "notes"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--num", type=int, required=True)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    (options.output / "rows").mkdir(parents=True, exist_ok=True)
    drop_broken(options.output)
    with_ray(options) if options.engine == "ray" else with_daft(options)


if __name__ == "__main__":
    main()
