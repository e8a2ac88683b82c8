"""The example of docs/extending/layout.md, run as a reader would add it."""

import re
from pathlib import Path
from typing import Any

import pytest

from engine.catalog import corpus, load_dataset
from engine.catalog.corpus import open_layout, read_images
from engine.catalog.layouts import LAYOUTS
from tests.catalog.trees import verdicts, write_files

PAGE = Path(__file__).parents[2] / "docs" / "extending" / "layout.md"


@pytest.fixture
def layout(monkeypatch: pytest.MonkeyPatch) -> type:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(code, str(PAGE), "exec"), names)
    monkeypatch.setattr(corpus, "LAYOUTS", (names["CsvLabels"], *LAYOUTS))
    return names["CsvLabels"]


def test_the_example_reads_a_folder_and_accounts_for_it(layout: type, tmp_path: Path):
    rows = [f"{number}.jpg,{('cat', 'hot dog')[number % 2]}" for number in range(20)]
    files = {f"{number}.jpg": f"image {number}" for number in range(20)}
    folder = write_files(
        tmp_path / "pets",
        files | {"labels.csv": "\n".join(["file,label", *rows]), "stray.png": "x", ".hidden": "x", "more/1.jpg": "x"},
    )
    assert isinstance(open_layout(str(folder)), layout)
    dataset = load_dataset(str(folder))
    assert dataset.class_names == ("cat", "hot dog")
    train, test = dataset.index("train"), dataset.index("test")
    assert (len(train.keys), len(test.keys)) == (16, 4)
    assert not set(train.keys) & set(test.keys)
    images = read_images(dataset.location, train.keys.tolist())
    for image, label in zip(images, train.labels(dataset.class_names, ""), strict=True):
        assert int(image.split()[1]) % 2 == label
    assert verdicts(folder) == {
        "used": {"": 20},
        "ignored": {"hidden": 1, "a list or a description": 1, "below the folder": 1},
        "refused": {"a picture that labels.csv does not name": 1},
    }


def test_the_page_names_files_that_are_there():
    root = PAGE.parents[2]
    for name in re.findall(r"`((?:engine|tests|jobs)/[\w/]+\.py)`", PAGE.read_text("utf-8")):
        if "NAME" not in name:
            assert (root / name).exists(), name
