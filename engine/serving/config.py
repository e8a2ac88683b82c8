"""Settings of a server."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from engine.cache import check_cache_folder
from engine.models.reach import check_encoder
from engine.models.resolve import generator_spec
from engine.studies.config import check_not_empty, check_place, expanded


@dataclass(frozen=True, kw_only=True)
class ServeConfig:
    """Models, table and limits of a server."""

    workspace: str = "workspace/serve"
    """Folder or s3:// prefix of the image table: the database of references, and where every served image is kept."""
    generators: tuple[str, ...] = ("mini",)
    """Registry names (see `imagefoundry models`) or diffusers folders; each runs in processes of its own. The first is the default."""
    encoder: str = "mini-clip"
    """CLIP model of the retrievers, and of the embeddings of served images."""
    host: str = "127.0.0.1"
    """Address to listen on; the default is reachable from this machine alone."""
    port: int = 8000
    """Port to listen on."""
    replicas: int = 1
    """Processes per generator at the start and at least; each holds the generator's share of a GPU."""
    max_replicas: int | None = None
    """Processes per generator under load; as many as `replicas` if not given."""
    ingress_replicas: int = 1
    """Processes that answer HTTP."""
    max_batch: int | None = None
    """Images that a generator makes at once, at most; the generator's own number if not given."""
    max_queue: int = 64
    """Images that may wait per process of a generator; further requests are answered with 503."""
    max_wait_seconds: float = 60.0
    """An image that waited longer in the queue is given up and answered with 503."""
    deadline_seconds: float = 300.0
    """A request that takes longer is given up and answered with 504."""
    price_book: Path | None = None
    """Price book (TOML); the shipped one if not given."""
    instance: str | None = None
    """Instance of the price book that the machines are; chosen by the cluster's accelerator if not given."""
    device: Literal["auto", "cpu", "gpu"] = "auto"
    """Device of the models: `auto` takes GPUs if the cluster has or can add them, or if the generator needs them."""
    warm_up: bool = True
    """Measure batches of 1, 2, 4, … images at the start, so that the first requests are batched well."""
    max_body_mb: int = 32
    """Larger requests are refused, in megabytes."""
    max_prompt_chars: int = 4_000
    """Longer prompts are refused, in characters."""
    max_megapixels: float = 4.2
    """Larger sizes of generated images are refused, in millions of pixels."""
    max_steps: int = 150
    """More sampler steps are refused."""
    log_prompts: bool = False
    """Whether log lines show the prompts. (The table always keeps them, as part of the recipes.)"""

    def __post_init__(self) -> None:
        """Expands `~` in paths, and makes paths of models absolute, since workers run in another folder."""
        for name in ("workspace", "price_book", "generators", "encoder"):
            value = getattr(self, name)
            object.__setattr__(self, name, expanded(value, name in ("generators", "encoder")))

    def check(self) -> None:
        """Raises ValueError if the configuration is invalid, or names models that are neither here nor within reach."""
        check_cache_folder()
        check_place("workspace", self.workspace)
        self.check_values()
        check_encoder(self.encoder)

    def check_values(self) -> None:
        """Raises ValueError if a value is out of range or names an unknown generator; looks for no weights."""
        check_not_empty(generators=self.generators)
        names = [generator_spec(name).name for name in self.generators]
        if len(set(names)) < len(names):
            raise ValueError(f"two generators have the same name ({', '.join(names)}); give each once")
        least = {
            "replicas": 1, "ingress_replicas": 1, "max_queue": 1, "max_body_mb": 1, "max_prompt_chars": 1, "max_steps": 1
        }  # fmt: skip
        for name, value in least.items():
            if getattr(self, name) < value:
                raise ValueError(f"{name} is {getattr(self, name)}; give {value} or more")
        for name in ("max_wait_seconds", "deadline_seconds", "max_megapixels"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"{name} is {getattr(self, name)}; give a positive number")
        if self.max_batch is not None and self.max_batch < 1:
            raise ValueError(f"max_batch is {self.max_batch}; give 1 or more, or leave it out")
        if self.max_replicas is not None and self.max_replicas < self.replicas:
            raise ValueError(f"max_replicas is {self.max_replicas}; give {self.replicas} (replicas) or more")
        if not 0 < self.port < 65_536:
            raise ValueError(f"port is {self.port}; give 1 to 65535")
