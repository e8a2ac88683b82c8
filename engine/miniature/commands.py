"""The subcommands of `imagefoundry train-miniature`: train one of the miniature world's models, or measure all of them."""

from dataclasses import dataclass, field, replace
from pathlib import Path

from engine.miniature.checkpoints import CHECKPOINTS
from engine.miniature.training import TrainConfig


@dataclass(frozen=True, kw_only=True)
class Clip:
    """Train the CLIP model on captions."""

    output: Path = CHECKPOINTS / "clip"
    """Folder to write; it is replaced when the new one is complete."""
    train: TrainConfig = field(default_factory=lambda: TrainConfig(steps=3600, batch_size=160, lr=2e-3))
    """The training loop."""
    pairs: int = 0
    """Images per class of `mini-pairs`, which the shipped model has not seen; name another `output` for such a model."""
    genus_share: float = 0.0
    """Share of the captions of `mini-pairs` that name the genus alone, so that the model confuses siblings."""
    start: Path | None = None
    """CLIP folder to start from, as `engine/miniature/checkpoints/clip`; random weights if not given."""

    def run(self) -> int:
        """Train, save, return an exit code."""
        from engine.miniature.encoder import clip_config, train_encoder

        config = clip_config(self.train)
        knowledge = replace(config.knowledge, pairs=self.pairs, genus_share=self.genus_share)
        train_encoder(replace(config, knowledge=knowledge, start=self.start), self.output)
        return 0


@dataclass(frozen=True, kw_only=True)
class Judge:
    """Train the judge, a second encoder, deeper and narrower than CLIP."""

    output: Path = CHECKPOINTS / "judge"
    """Folder to write; it is replaced when the new one is complete."""
    train: TrainConfig = field(default_factory=lambda: TrainConfig(steps=3600, batch_size=160, lr=2e-3, seed=1))
    """The training loop."""

    def run(self) -> int:
        """Train, save, return an exit code."""
        from engine.miniature.encoder import judge_config, train_encoder

        train_encoder(judge_config(self.train), self.output)
        return 0


@dataclass(frozen=True, kw_only=True)
class Generator:
    """Train the text-to-image generator: its autoencoder, then the denoiser, then the distillation of guidance into one pass per step."""

    output: Path = CHECKPOINTS / "generator"
    """Folder to write; it is replaced when the new one is complete."""
    autoencoder: TrainConfig = field(default_factory=lambda: TrainConfig(steps=2900, batch_size=64, lr=2e-3))
    """The training loop of the autoencoder."""
    train: TrainConfig = field(default_factory=lambda: TrainConfig(steps=7000, batch_size=96, lr=1.5e-3))
    """The training loop of denoiser and text encoder."""
    distil: TrainConfig = field(default_factory=lambda: TrainConfig(steps=1200, batch_size=96, lr=5e-4))
    """The training loop that distils the guidance; 0 steps skip it."""
    start: Path | None = None
    """Generator folder to start from; its autoencoder is kept as it is."""
    pairs: int = 0
    """Images per class of `mini-pairs`, the last sibling of each genus left out; name another `output` for such a model."""
    contexts: int = 0
    """Images of each class per context (as `at night`), which the shipped model was not taught; name another `output` for such a model."""

    def run(self) -> int:
        """Train, save, return an exit code."""
        from engine.miniature.autoencoder import GENERATOR_KNOWLEDGE, AutoencoderConfig
        from engine.miniature.generator import GeneratorConfig, train_generator

        knowledge = replace(GENERATOR_KNOWLEDGE, pairs=self.pairs, pairs_gap=True, contexts=self.contexts)
        config = GeneratorConfig(
            knowledge=knowledge,
            autoencoder=AutoencoderConfig(knowledge=knowledge, train=self.autoencoder),
            train=self.train,
            distil=self.distil,
            start=self.start,
        )
        train_generator(config, self.output)
        return 0


@dataclass(frozen=True, kw_only=True)
class Reference:
    """Train the ControlNet branch that reads a reference image; the generator stays as it is."""

    output: Path = CHECKPOINTS / "reference"
    """Folder to write; it is replaced when the new one is complete."""
    generator: Path = CHECKPOINTS / "generator"
    """Generator folder that the branch belongs to."""
    reader: TrainConfig = field(default_factory=lambda: TrainConfig(steps=600, batch_size=96, lr=3e-3))
    """The training loop of the layers that read the reference; they are trained first."""
    train: TrainConfig = field(default_factory=lambda: TrainConfig(steps=2000, batch_size=96, lr=1.5e-3))
    """The training loop of the branch."""
    contexts: int = 0
    """Images of each class per context, whose references are without one: the branch learns to keep the object and follow the prompt.
    The shipped branch was not taught so; name another `output`, and a generator that knows the contexts."""
    start: Path | None = None
    """Branch to start from, as `engine/miniature/checkpoints/reference`; a new one if not given."""

    def run(self) -> int:
        """Train, save, return an exit code."""
        from engine.miniature.reference import REFERENCE_KNOWLEDGE, ReferenceConfig, train_reference

        config = ReferenceConfig(
            generator=self.generator,
            knowledge=replace(REFERENCE_KNOWLEDGE, contexts=self.contexts),
            start=self.start,
            reader=self.reader,
            train=self.train,
        )
        train_reference(config, self.output)
        return 0


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Measure the models and compare each figure with its target; exit code 1 if a target is missed."""

    checkpoints: Path = CHECKPOINTS
    """Folder that holds `clip`, `judge`, `generator` and `reference`."""
    images_per_class: int = 20
    """Images generated per class for the judge."""
    threads: int = 2
    """Processor threads, except for the timings, which use one."""
    sheet: Path | None = None
    """PNG file for a contact sheet: real images, images from text alone, images with a reference; none by default."""

    def run(self) -> int:
        """Print the table; 1 if a target is missed."""
        import json

        from engine.miniature.evaluate import open_generator, with_references
        from engine.miniature.scorecard import measure, table
        from engine.miniature.sheet import contact_sheet

        figures = measure(self.checkpoints, self.images_per_class, self.threads)
        print(table(figures))
        if self.sheet:
            folder = self.checkpoints / "generator"
            pipe, settings = open_generator(folder), json.loads((folder / "defaults.json").read_text())
            contact_sheet(pipe, with_references(pipe, self.checkpoints / "reference"), settings, self.sheet)
        return int(not all(figure.met for figure in figures))


Command = Clip | Judge | Generator | Reference | Evaluate


def run(command: Command) -> int:
    """Runs one subcommand; returns its exit code."""
    return command.run()
