"""Settings of the composition study."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from engine.command import check_place
from engine.models import generator_spec
from engine.models.spec import GeneratorSpec
from engine.names import unknown_name
from engine.retriever.fit import TrainingConfig
from engine.studies.config import check_not_empty, check_seeds
from engine.studies.realrag.config import METHODS, RealRagConfig
from engine.world.classes import DATASETS, contexts, dataset_classes

SHIPPED, TRAINED = "shipped-branch", "context-branch"
"""The generators that are compared: one denoiser, with the reference branch that ships and with one that was taught contexts."""
_WITH_OBJECTS = tuple(name for name in DATASETS if not any(item.texture for item in dataset_classes(name)))


@dataclass(frozen=True, kw_only=True)
class CompositionConfig:
    """Prompts with a context ("a photo of a robin at night"), scored for object and for context (docs/lab-notes/composition-plan.md)."""

    models: Path = Path("runs/composition")
    """Folder of the models that were taught contexts: `generator` and `reference`."""
    datasets: tuple[str, ...] = _WITH_OBJECTS
    """Sets of the miniature world whose images show an object (a texture leaves no room for a context)."""
    methods: tuple[str, ...] = ("none", "zero", "realrag")
    """Any of `none`, `zero`, `normal`, `realrag`."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Each seed trains its own heads and generates its own images: one per class, method, branch, and prompt."""
    database_shots: int = 120
    """Real images per class, none in a context: one half for mining and training, the other for retrieval."""
    texts: int = 20
    """Training prompts per class; an image is generated for each, to mine its negatives."""
    epochs: int = 10
    """Epochs of the heads."""
    judge_images: int = 20
    """Real images per class and context that the judge's probes are fitted on, and as many that they are tested on."""
    workspace: str = "workspace/composition"
    """Folder of the workspace; a run continues where the last one stopped."""
    report: Path = Path("report-composition")
    """Folder for report.json and index.html."""

    def check(self) -> None:
        """Raises ValueError if the configuration is invalid or a model is missing; the sentence has the command that trains it."""
        check_place("report", self.report)
        check_not_empty(datasets=self.datasets, methods=self.methods)
        check_seeds(self.seeds)
        for name in self.datasets:
            if name not in _WITH_OBJECTS:
                raise ValueError(unknown_name("data set with objects", name, _WITH_OBJECTS))
        for method in self.methods:
            if method not in METHODS:
                raise ValueError(unknown_name("method", method, METHODS))
        if self.judge_images < 2:
            raise ValueError(f"judge_images is {self.judge_images}; give 2 or more")
        beside = f"--generator {self.models / 'generator'} "
        for kind, mark, more in (("generator", "model_index.json", ""), ("reference", "config.json", beside)):
            folder = self.models / kind
            if not (folder / mark).exists():
                raise ValueError(
                    f"{folder} holds no {kind} that was taught contexts; train it with imagefoundry train-miniature {kind} "
                    f"--contexts 24 {more}--output {folder}"
                )

    @property
    def generators(self) -> Mapping[str, GeneratorSpec]:
        """The generator that was taught contexts, with the shipped branch and with its own."""
        own = {"controlnet": str(self.models / "reference")}
        return {
            name: replace(
                generator_spec("mini", source=str(self.models / "generator"), auxiliaries=branch),
                name=name,
            )
            for name, branch in ((SHIPPED, {}), (TRAINED, own))
        }

    @property
    def study(self) -> RealRagConfig:
        """Configuration of the RealRAG study that makes the images."""
        return RealRagConfig(
            datasets=self.datasets,
            generators=("mini",),
            methods=self.methods,
            seeds=self.seeds,
            database_shots=self.database_shots,
            texts=self.texts,
            images=1 + len(contexts()),
            training=TrainingConfig(epochs=self.epochs),
            checkpoints=(),
            workspace=self.workspace,
            report=self.report,
        )
