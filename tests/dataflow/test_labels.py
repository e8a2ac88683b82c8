"""The lists of labels beside rows that have none yet: those of a release before, or of a run that was killed."""

from pathlib import Path

from engine.catalog import load_dataset
from engine.dataflow.labels import store_labels
from engine.retriever.database import DatabasePlan
from engine.sources import ConcatenatedPlan, OriginalPlan
from engine.testing.data import class_image, encode, multi_hot, write_dataset, write_shards
from tests.export.helpers import fill, row


def test_rows_without_lists_get_them_once(tmp_path: Path):
    folder = write_dataset(tmp_path / "several", ("a", "b"))
    (folder / "dataset_type.txt").write_text("multilabel\n")
    shown = {"train": [(1, 0), (1, 1), (0, 1)], "test": [(0, 1), (1, 1), (0, 0)]}
    for split, rows in shown.items():
        samples = [(encode(class_image(number, 0)), multi_hot(one)) for number, one in enumerate(rows)]
        write_shards(folder / split, samples, "npy")
    several = load_dataset(str(folder))
    plan = ConcatenatedPlan([OriginalPlan(several, 2), OriginalPlan(several, None, split="test")])
    recipes = [plan[number] for number in range(len(plan))]
    workspace = fill(tmp_path / "workspace", [row(recipe) for recipe in recipes[:-1]]).workspace

    assert store_labels(workspace, plan) == 6
    assert store_labels(workspace, plan) == 0
    table = workspace.scan(["key", "split", "label_indices", "label_names"]).read_all().to_pylist()
    assert len(table) == 6, "the image that is not committed has no row"
    for one in table:
        labels = [
            number for number, there in enumerate(shown[one["split"]][int(one["key"].rpartition("s")[2])]) if there
        ]
        assert (one["label_indices"], one["label_names"]) == (labels, ["ab"[label] for label in labels])
    half = DatabasePlan(several, first=1, shots=1)
    assert set(half.several_labels()) == set(half.ids())


def test_one_label_per_image_adds_no_column(tmp_path: Path):
    dataset = load_dataset(str(write_dataset(tmp_path / "one", ("a", "b"))))
    plan = OriginalPlan(dataset, 1)
    workspace = fill(tmp_path / "workspace", [row(plan[0])]).workspace
    assert store_labels(workspace, plan) == 0
    assert "label_indices" not in workspace.image_schema().names
