"""RealRAG's pictures: images beside their references (Fig. 4, 5, 13), and maps of image features (Fig. 3, 8, 12)."""

import io
from collections.abc import Mapping

import numpy as np

from engine.catalog import Dataset
from engine.reports import ContactSheet
from engine.store import Workspace
from engine.studies.realrag.judge import ImageSet

SHOWN_CLASSES = 4
"""Number of classes on a sheet, spread evenly over the data set."""
SPACE_CLASSES = 6
COLOURS = {"real": "#999999", "none": "#000000", "zero": "#e69f00", "normal": "#0072b2", "realrag": "#d55e00"}
COLOURS |= {"random": "#cc79a7", "image_hard": "#009e73", "oracle": "#f0e442", "selective": "#56b4e9"}


def reference_sheet(
    workspace: Workspace, dataset: Dataset, real: ImageSet, drawn: Mapping[str, ImageSet], generator: str
) -> ContactSheet:
    """For some classes: a real test image, and each method's first generated image, each after its reference."""
    ids, captions = [], []
    for number in _spread(len(dataset.class_names), SHOWN_CLASSES):
        name = dataset.class_names[number]
        for method, images in {"real": real, **drawn}.items():
            first = next((row for row, label in enumerate(images.labels) if label == number), None)
            if first is None:
                continue
            if images.reference_ids[first]:
                ids.append(images.reference_ids[first])
                captions.append(f"{name}: reference of {method}")
            ids.append(images.ids[first])
            captions.append(f"{name}: {method}")
    found = workspace.fetch(list(dict.fromkeys(ids)), ["image"])
    images_of = dict(zip(found.column("id").to_pylist(), found.column("image").to_pylist(), strict=True))
    pairs = [(images_of[name], text) for name, text in zip(ids, captions, strict=True) if name in images_of]
    return ContactSheet(
        title=f"{dataset.name}: {generator} with references",
        group=dataset.group,
        source="references",
        images=[image for image, _ in pairs],
        captions=[text for _, text in pairs],
    )


def space_sheet(
    dataset: Dataset, real: ImageSet, drawn: Mapping[str, ImageSet], encoder: str, generator: str
) -> ContactSheet:
    """A map of the judge's features of real and generated images of some classes, one panel per method."""
    classes = _spread(len(dataset.class_names), SPACE_CLASSES)
    parts = {
        method: (images.features[encoder][rows], images.labels[rows])
        for method, images in {"real": real, **drawn}.items()
        if (rows := np.flatnonzero(np.isin(images.labels, classes))).size
    }
    places, kind = project(np.concatenate([features for features, _ in parts.values()]))
    ends = np.cumsum([len(labels) for _, labels in parts.values()])[:-1]
    placed = dict(zip(parts, np.split(places, ends), strict=True))
    panels = [method for method in placed if method != "real"]
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4 * max(1, len(panels)), 4), dpi=80)
    canvas = FigureCanvasAgg(figure)
    for number, method in enumerate(panels):
        axes = figure.add_subplot(1, len(panels), number + 1)
        for name, size, alpha in (("real", 8, 0.35), (method, 16, 0.9)):
            if name in placed:
                axes.scatter(
                    placed[name][:, 0],
                    placed[name][:, 1],
                    s=size,
                    alpha=alpha,
                    color=COLOURS[name],
                    label=name,
                    linewidths=0,
                )
        axes.set_title(f"{method} ({kind})")
        axes.set_xticks([])
        axes.set_yticks([])
        axes.legend(frameon=False, loc="best")
    file = io.BytesIO()
    canvas.print_png(file)
    return ContactSheet(
        title=f"{dataset.name}: {generator}'s space ({kind} of {encoder}, {len(classes)} classes)",
        group=dataset.group,
        source="space",
        images=[file.getvalue()],
        captions=["real images grey, drawn ones in colour"],
        wide=True,
    )


def project(features: np.ndarray) -> tuple[np.ndarray, str]:
    """`[N, 2]` map of features `[N, D]`, and its method: t-SNE if scikit-learn is there, else two principal axes."""
    centred = features - features.mean(axis=0)
    try:
        from sklearn.manifold import TSNE
    except ImportError:
        return centred @ np.linalg.svd(centred, full_matrices=False)[2][:2].T, "PCA"
    perplexity = min(30.0, (len(features) - 1) / 3)
    return TSNE(perplexity=perplexity, init="pca", random_state=0).fit_transform(centred), "t-SNE"


def _spread(num: int, wanted: int) -> list[int]:
    return sorted({int(number) for number in np.linspace(0, num - 1, min(num, wanted))})
