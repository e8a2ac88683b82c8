import base64
import io
import re

import numpy as np
from PIL import Image

from engine.catalog import load_dataset
from engine.studies.realrag.judge import ImageSet
from engine.studies.realrag.pictures import space_figure


def images(labels: list[int], of: list[int] | None = None) -> ImageSet:
    """Images of these classes that look like those of the classes `of`."""
    random = np.random.default_rng(len(labels))
    features = np.eye(8)[np.array(of or labels, int)] + 0.05 * random.normal(size=(len(labels), 8))
    features = (features / np.linalg.norm(features, axis=1, keepdims=True)).astype(np.float32)
    ids = [str(number) for number in range(len(labels))]
    return ImageSet(ids, [("things", label) for label in labels], ids, ids, {"judge": features})


def test_the_generation_space_is_a_picture_that_says_which_images_are_near_their_class(tiny_dataset):
    dataset = load_dataset(str(tiny_dataset))
    labels = [0, 1, 2] * 6
    drawn = {"none": images(labels, [1, 2, 0] * 6), "realrag": images(labels, [0, 1, 0] * 6)}
    ((caption, picture),) = space_figure(dataset, images(labels), drawn, "judge", "mini").items()
    assert "no reference 0 %, RealRAG 67 %" in caption
    assert re.search(r'alt="[^"]*no reference 0 %, RealRAG 67 %', picture)
    (encoded,) = re.findall(r'src="data:image/png;base64,([^"]+)"', picture)
    assert Image.open(io.BytesIO(base64.b64decode(encoded))).width > 300
    assert space_figure(dataset, images(labels), {"none": images([])}, "judge", "mini") == {}
