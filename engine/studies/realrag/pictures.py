"""RealRAG's pictures: images beside their references (Fig. 4, 5, 13), and maps of image features (Fig. 3, 8, 12)."""

import base64
import html
import io
from collections.abc import Mapping, Sequence

import numpy as np

from engine.catalog import Dataset
from engine.images import viewable
from engine.reports import ContactSheet
from engine.reports.headings import method_name
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
    """A line per class: a real test image, and each method's first generated image, each after its reference."""
    ids, captions = [], []
    referring = [method for method, images in drawn.items() if any(images.reference_ids)]
    for number in _spread(len(dataset.class_names), SHOWN_CLASSES):
        name = dataset.class_names[number]
        for method, images in {"real": real, **drawn}.items():
            first = next((row for row, label in enumerate(images.labels) if label == number), None)
            if method in referring:
                ids.append("" if first is None else images.reference_ids[first])
                captions.append(f"{name}: reference of {method_name(method)}")
            ids.append("" if first is None else images.ids[first])
            captions.append(f"{name}: {method_name(method) if method != 'real' else 'real image'}")
    found = workspace.fetch([name for name in dict.fromkeys(ids) if name], ["image"])
    images_of = dict(zip(found.column("id").to_pylist(), found.column("image").to_pylist(), strict=True))
    present = [name if name in images_of else "" for name in ids]
    return ContactSheet(
        title=f"{dataset.name}: {generator} with references",
        group=dataset.group,
        source="references",
        images=[viewable(images_of[name]) if name else b"" for name in present],
        captions=[text if name else "" for name, text in zip(present, captions, strict=True)],
        per_row=1 + len(drawn) + len(referring),
        ids=present,
    )


def space_figure(
    dataset: Dataset, real: ImageSet, drawn: Mapping[str, ImageSet], encoder: str, generator: str
) -> dict[str, str]:
    """Caption → map of the judge's features of real and generated images of some classes, one panel per method; none without images."""
    classes = _spread(len(dataset.class_names), SPACE_CLASSES)
    parts = {
        method: (images.features[encoder][rows], images.labels[rows])
        for method, images in {"real": real, **drawn}.items()
        if (rows := np.flatnonzero(np.isin(images.labels, classes))).size
    }
    panels = [method for method in parts if method != "real"]
    if "real" not in parts or not panels:
        return {}
    places, kind = project(np.concatenate([features for features, _ in parts.values()]))
    ends = np.cumsum([len(labels) for _, labels in parts.values()])[:-1]
    placed = dict(zip(parts, np.split(places, ends), strict=True))
    near = [f"{method_name(method)} {100 * _near_own(parts['real'], parts[method]):.0f} %" for method in panels]
    text = (
        f"Maps of images of {len(classes)} classes of {dataset.name}, {generator}, one per method; share of the generated images whose "
        f"nearest real image is of their class: {', '.join(near)}."
    )
    caption = (
        f"RealRAG Figures 3, 8 and 12: {generator}'s generation space on {dataset.name} ({kind} of {encoder}, {len(classes)} classes); "
        f"real images are grey. Nearest real image is of the own class: {', '.join(near)}."
    )
    picture = base64.b64encode(_plot_panels(placed, panels)).decode("ascii")
    return {caption: f'<img src="data:image/png;base64,{picture}" alt="{html.escape(text, quote=True)}">'}


def _plot_panels(placed: Mapping[str, np.ndarray], panels: Sequence[str]) -> bytes:
    """A PNG of one map per method, two or three in a row."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(len(panels), 2 if len(panels) <= 4 else 3)
    lines = -(-len(panels) // columns)
    figure = Figure(figsize=(3.2 * columns, 3.3 * lines), dpi=80, layout="tight")
    canvas = FigureCanvasAgg(figure)
    for number, method in enumerate(panels):
        axes = figure.add_subplot(lines, columns, number + 1)
        for name, size, alpha in (("real", 8, 0.35), (method, 16, 0.9)):
            axes.scatter(
                placed[name][:, 0],
                placed[name][:, 1],
                s=size,
                alpha=alpha,
                color=COLOURS.get(name, "#0173b2"),
                linewidths=0,
            )
        axes.set_title(method_name(method))
        axes.set_xticks([])
        axes.set_yticks([])
    file = io.BytesIO()
    figure.savefig(file, format="png", pil_kwargs={"optimize": True})
    del canvas
    return file.getvalue()


def _near_own(real: tuple[np.ndarray, np.ndarray], drawn: tuple[np.ndarray, np.ndarray]) -> float:
    """Share of generated images whose nearest real image, by the features themselves, is of their class."""
    nearest = (drawn[0] @ real[0].T).argmax(axis=1)
    return float((real[1][nearest] == drawn[1]).mean())


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
