"""Trained heads in a workspace: found by the hash of their training data and settings, loaded by name."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Any

import pyarrow as pa

from engine.names import unknown_name
from engine.retriever.data import RetrieverData
from engine.retriever.fit import Trained, TrainingConfig
from engine.retriever.head import Head, HeadSpec
from engine.store import Workspace
from engine.store.rows import quote

_ARRAYS = ("text_features", "text_class", "image_features", "image_class", "validation")
_OF_NEGATIVES = ("negatives", "generated")


def trained_from(data: RetrieverData, config: TrainingConfig) -> str:
    """Hash of everything that determines a head: its data and its training settings, 32 hexadecimal digits.

    Negatives are part of it only for a head that learns from them, so all generators share their `normal` heads.
    """
    digest = blake2b(json.dumps([data.encoder, asdict(config)]).encode(), digest_size=16)
    for name in _ARRAYS + (_OF_NEGATIVES if config.num_negatives else ()):
        array = getattr(data, name)
        if array is not None:
            digest.update(array.tobytes())
    return digest.hexdigest()


def find_trained(workspace: Workspace, hashes: list[str]) -> dict[str, Trained]:
    """Hash (`trained_from`) → training result, for those that the workspace holds."""
    wanted = ", ".join(quote(one) for one in dict.fromkeys(hashes))
    rows = workspace.heads(f"trained_from IN ({wanted})").to_pylist() if wanted else []
    found: dict[str, Trained] = {}
    for row in rows:
        if not row["kept"] and row["trained_from"] not in found:
            kept = [one for one in rows if one["kept"] and one["trained_from"] == row["trained_from"]]
            kept.sort(key=lambda one: one["epoch"])
            found[row["trained_from"]] = Trained(
                _head(row), json.loads(row["curves"]), {one["epoch"]: _head(one) for one in kept}
            )
    return found


def keep_trained(workspace: Workspace, trained: Mapping[str, Trained], run_id: str) -> None:
    """Adds heads to the workspace, under the hash of their training data and settings."""
    rows: list[dict[str, Any]] = []
    for digest, one in trained.items():
        rows += [_row(digest, one.head, one, run_id, kept=False)]
        rows += [_row(digest, head, one, run_id, kept=True) for head in one.checkpoints.values()]
    if rows:
        workspace.add_rows("heads", pa.Table.from_pylist(rows))


def load_kept_head(workspace: Workspace, name: str) -> Head:
    """The head of this name, or the newest one with this label (`realrag`, `normal`).

    Raises:
        ValueError: the workspace holds no such head; the message lists the heads that it holds.
    """
    rows = workspace.heads("NOT kept").to_pylist()
    chosen = [row for row in rows if name in (row["name"], row["label"])]
    if not chosen:
        known = sorted({row["name"] for row in rows})
        if not known:
            raise ValueError(
                f"workspace {workspace.uri} holds no trained head; train one with `imagefoundry train-retriever`"
            )
        raise ValueError(unknown_name("head", name, known))
    return _head(max(chosen, key=lambda row: row["created_at"]))


def _row(digest: str, head: Head, trained: Trained, run_id: str, kept: bool) -> dict[str, Any]:
    from safetensors.torch import save

    state = {name: tensor.detach().cpu().contiguous() for name, tensor in head.state_dict().items()}
    return {
        "name": head.name,
        "trained_from": digest,
        "label": head.spec.label,
        "encoder": head.spec.encoder,
        "epoch": head.spec.epoch,
        "kept": kept,
        "spec": json.dumps(asdict(head.spec)),
        "curves": json.dumps([] if kept else trained.curves),
        "weights": save(state),
        "run_id": run_id,
        "created_at": datetime.now(UTC),
    }


def _head(row: Mapping[str, Any]) -> Head:
    from safetensors.torch import load

    head = Head(HeadSpec(**json.loads(row["spec"])))
    head.load_state_dict(load(row["weights"]))
    return head.eval()
