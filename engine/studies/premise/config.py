"""Settings of the premise study."""

from dataclasses import dataclass
from pathlib import Path

from engine.command import check_place
from engine.models import generator_spec
from engine.models.spec import GeneratorSpec
from engine.retriever.fit import TrainingConfig
from engine.studies.config import check_not_empty, check_seeds
from engine.studies.realrag.config import TRAINED, RealRagConfig
from engine.world.classes import PAIRS
from engine.world.write import WorldConfig

METHODS = ("none", "zero", *TRAINED)
"""Methods that are compared: no reference, plain CLIP, and every head."""
GRID = tuple(
    (epochs, batch_size, temperature)
    for epochs in (10, 60)
    for batch_size in (128, 32, 16)
    for temperature in (True, False)
)
"""Epochs, batch size, and temperature on the reflective term, of the heads of `--grid`."""


@dataclass(frozen=True, kw_only=True)
class PremiseConfig:
    """Worlds, models and seeds of the premise study (docs/lab-notes/premise-plan.md)."""

    models: Path = Path("runs/premise")
    """Folder of the models that were trained for `mini-pairs`: `generator`, and `clip-SHARE` for each of `genus_shares`."""
    genus_shares: tuple[float, ...] = (0.5, 0.0, 0.9)
    """Shares of CLIP's captions that name the genus alone; `held_out` and `grid` use the first."""
    worlds: tuple[int, ...] = (0, 1, 2)
    """Seeds of the worlds: each has its own images, generated training images and negatives."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """In each world, each seed trains its own heads and generates its own images."""
    shots: int = 120
    """Real images per class: one half for mining and training, the other for retrieval."""
    test_images: int = 40
    """Test images per class."""
    texts: int = 20
    """Training prompts per class; an image is generated for each, to mine its negatives."""
    images: int = 4
    """Judged images per class, method and seed."""
    epochs: int = 60
    """Epochs of the heads of the main comparison."""
    held_out: bool = True
    """Also train heads on three quarters of the classes, and retrieve the names of the others."""
    grid: bool = True
    """Also train heads of every method for 10 and 60 epochs, in batches of 16, 32 and 128, with and without the temperature on the
    reflective term (retrieval only)."""
    workspace: str = "workspace/premise"
    """Folder of the workspaces, one per world; a run continues where the last one stopped."""
    report: Path = Path("report-premise")
    """Folder for report.json and index.html; renewed after each world."""

    def check(self) -> None:
        """Raises ValueError if the configuration is invalid or a model is missing; the sentence has the command that trains it."""
        check_place("report", self.report)
        check_not_empty(genus_shares=self.genus_shares, worlds=self.worlds)
        check_seeds(self.seeds)
        check_seeds(self.worlds)
        for share in self.genus_shares:
            if not 0 <= share < 1:
                raise ValueError(f"genus share {share} is not from 0 to below 1; give one that is")
        command = f"imagefoundry train-miniature {{kind}} --pairs {self.shots} --output {{folder}}"
        if not (self.models / "generator" / "model_index.json").exists():
            raise ValueError(
                f"{self.models / 'generator'} holds no generator; train it with "
                + command.format(kind="generator", folder=self.models / "generator")
            )
        for share in self.genus_shares:
            folder = self.clip(share)
            if not (folder / "open_clip_config.json").exists():
                raise ValueError(
                    f"{folder} holds no CLIP model; train it with "
                    + command.format(kind=f"clip --genus-share {share:g}", folder=folder)
                )
        self.study(self.genus_shares[0], self.worlds[0], "unused").check()

    def clip(self, share: float) -> Path:
        """Folder of the CLIP model with this share."""
        return self.models / f"clip-{share:g}"

    @property
    def generator(self) -> GeneratorSpec:
        """The miniature generator's entry with the weights of `models`; the reference branch is the shipped one."""
        from dataclasses import replace

        trained = generator_spec(str(self.models / "generator"))
        return replace(generator_spec("mini"), name=trained.name, source=trained.source, revision=trained.revision)

    def world(self, seed: int) -> WorldConfig:
        """Size of a world."""
        return WorldConfig(shots=self.shots, test_images=self.test_images, seed=seed)

    def study(self, share: float, world: int, folder: str) -> RealRagConfig:
        """Configuration of the RealRAG study of one share in one world, which lies in `folder`."""
        return RealRagConfig(
            datasets=(f"{PAIRS}={folder}",),
            encoder=str(self.clip(share)),
            generators=("mini",),
            methods=METHODS,
            seeds=self.seeds,
            database_shots=self.shots,
            texts=self.texts,
            mining_seed=world,
            images=self.images,
            test_images=self.test_images,
            training=TrainingConfig(epochs=self.epochs),
            checkpoints=(),
            workspace=f"{self.workspace}/world-{world}",
            report=self.report,
        )
