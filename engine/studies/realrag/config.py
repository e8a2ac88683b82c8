"""Settings of retrievers and of the RealRAG study."""

from dataclasses import dataclass, field
from pathlib import Path

from engine.models.registry import encoder_source
from engine.names import unknown_name
from engine.prompts import strategy_name
from engine.retriever.fit import TrainingConfig
from engine.studies.config import Settings, check_not_empty, check_place, check_seeds

METHODS = ("none", "zero", "normal", "realrag")
"""No reference; references by plain CLIP, by a head without and with reflective negatives (RealRAG section 5)."""
TRAINED = ("normal", "random", "image_hard", "realrag", "oracle", "selective")
"""Methods with a head. `random`, `image_hard` and `oracle` are controls of the negatives, `selective` takes some of the
reflective ones (`negative_choices.py`)."""
MINED = ("realrag", "selective")
"""Methods whose negatives are mined from generated images."""


@dataclass(frozen=True, kw_only=True)
class RetrieverSettings(Settings):
    """A database of real images, the training prompts of retrievers, and their training. The encoder is the CLIP
    model whose frozen towers the retrievers use."""

    methods: tuple[str, ...] = METHODS
    """Any of `none`, `zero`, `normal`, `realrag`, and the other negatives: `random`, `image_hard`, `oracle`, `selective`."""
    seeds: tuple[int, ...] = (0, 1)
    """Each seed trains its own heads and generates its own images."""
    database_shots: int = 120
    """Real images per class: one half for mining and training, the other for retrieval; a class may have fewer."""
    texts: int = 20
    """Training prompts per class; an image is generated for each, to mine its negatives."""
    mining_seed: int = 0
    """Seed of the images that are generated for the training prompts; all `seeds` share their negatives."""
    training_strategy: str = "defined_template"
    """Prompt strategy of the training prompts."""
    strategy: str = "simple_template"
    """Prompt strategy of queries and of the judged images ("A photo of a [CLASS NAME]")."""
    prompts: Path | None = None
    """JSON file, class name → prompts: queries and prompts of the data sets whose classes it names (novel objects)."""
    max_distance: float | None = None
    """References farther than this cosine distance are left out, and the image is generated from text alone."""
    negatives_mined: int = 4
    """Negatives mined per prompt; `training.num_negatives` of them are used."""
    mask_own_class: bool = True
    """Skip images of the prompt's own class in mining."""
    validation_share: float = 0.2
    """Share of the mining half's images that chooses the epoch and is not trained on."""
    held_out_share: float = 0.0
    """Share of each data set's classes that no head is trained on; their names are retrieved all the same ("unseen")."""
    training: TrainingConfig = field(default_factory=TrainingConfig)
    """Training of the heads; `normal` is trained in the same way without reflective negatives."""
    batch_size: int | None = None
    """Images that a generator makes at once; the generator's own default if not given."""
    report: Path = Path("report")
    """Folder for report.json and index.html."""

    @property
    def needs_mining(self) -> bool:
        """Whether a method's negatives are mined from generated images."""
        return any(method in MINED for method in self.methods)

    def check(self) -> None:
        """Raises ValueError if the configuration is invalid."""
        super().check()
        check_place("report", self.report)
        check_not_empty(methods=self.methods)
        known = ("none", "zero", *TRAINED)
        for name in self.methods:
            if name not in known:
                raise ValueError(unknown_name("method", name, known))
        for name in ("texts", "negatives_mined"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; give 1 or more")
        if self.database_shots < 2:
            raise ValueError(f"database_shots is {self.database_shots}; give 2 or more, for two halves")
        check_seeds(self.seeds)
        check_seeds((self.mining_seed,))
        if not 0 <= self.held_out_share < 1:
            raise ValueError(f"held_out_share is {self.held_out_share}; give a share from 0 to below 1")
        for strategy in (self.strategy, self.training_strategy):
            if "retrieval_augmented" in strategy_name(strategy).split("+"):
                raise ValueError("retrieval_augmented is what the methods add; leave it out of the strategies")
        self.training.check()


@dataclass(frozen=True, kw_only=True)
class TrainRetrieverConfig(RetrieverSettings):
    """A database, one generator, and the retrievers to train on its errors."""

    methods: tuple[str, ...] = ("zero", "normal", "realrag")
    """Retrievers to train and compare: `zero` is plain CLIP, `normal` has no reflective negatives."""
    seeds: tuple[int, ...] = (0,)
    """Each seed trains its own heads."""
    generator: str = "mini"
    """Generator from whose images the negatives are mined: a registry name or a diffusers folder."""

    def check(self) -> None:
        """Raises ValueError if the configuration is invalid."""
        super().check()
        if "none" in self.methods:
            raise ValueError("the method none has no retriever; leave it out")


@dataclass(frozen=True, kw_only=True)
class RealRagConfig(RetrieverSettings):
    """Generators, retrievers, and their judge. All data sets together are the database."""

    generators: tuple[str, ...] = ("mini",)
    """Registry names (see `imagefoundry models`) or diffusers folders; each must support a reference image."""
    reference_mode: str = ""
    """Reference mode; each generator's own default if empty."""
    reference_scale: float | None = None
    """Strength of the reference, in the units of its mode; the generator's own default if not given."""
    judge: str = "mini-judge"
    """Another encoder: a linear probe on its features of real images decides if a generated image shows its class."""
    inception: Path | None = None
    """Inception weights (safetensors) for FID; the judge's features are used if not given."""
    images: int = 10
    """Judged images per class."""
    test_images: int | None = None
    """Real test images per class for the judge; all if not given."""
    references: int = 10
    """Number of nearest images of a class that its shots use in turn; 1 uses the nearest for all."""
    checkpoints: tuple[int, ...] = (2, 4, 6, 8, 10)
    """Epochs whose heads are compared for the first seed (RealRAG Fig. 7); leave empty to skip the comparison."""
    checkpoint_images: int = 2
    """Judged images per class of each such head."""
    options: bool = False
    """Also compare ways to train the head (one change at a time, retrieval only)."""

    def check(self) -> None:
        """Raises ValueError if the configuration is invalid."""
        super().check()
        check_not_empty(generators=self.generators)
        encoder_source(self.judge)
        for name in ("images", "references", "checkpoint_images"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; give 1 or more")
        if self.test_images is not None and self.test_images < 1:
            raise ValueError(f"test_images is {self.test_images}; give 1 or more, or leave it out for all")
        if min(self.checkpoints, default=1) < 1:
            raise ValueError("a checkpoint before the first epoch is no trained head; give epochs of 1 or more")
        if self.options and "realrag" not in self.methods:
            raise ValueError("options compare ways to train realrag; add it to the methods")
        if self.options and self.held_out_share:
            raise ValueError("options compare heads that are trained on all classes; leave held_out_share out")
