"""Generative data: prompts by class and strategy, rendered by a text-to-image model (GenBench section 2.2)."""

from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from typing import Any

from engine.catalog import Dataset
from engine.models.spec import GeneratorSpec
from engine.prompts import NO_MATERIALS, Materials, Prompt, make_prompt, strategy_name
from engine.recipe import Recipe


@dataclass(frozen=True)
class GenerativePlan:
    """`shots` images of each class from one generator and one prompt strategy."""

    dataset: Dataset
    generator: GeneratorSpec
    strategy: str
    shots: int
    seed: int = 0
    """Another seed gives other noise and another sample of templates."""
    materials: Materials = NO_MATERIALS
    """Sentences and reference images, for the strategies that use them."""
    reference_mode: str = ""
    """How a reference image enters, where the strategy gives one; the generator's own choice if empty."""
    reference_scale: float | None = None
    """Its strength, in the units of its mode; the generator's own choice if None."""
    guidance_scale: float | None = None
    """Guidance of every image; the generator's own choice if None, which may be another one for negative prompts."""

    @property
    def num_classes(self) -> int:
        """Classes of the data set."""
        return len(self.dataset.class_names)

    def __len__(self) -> int:
        return self.shots * self.num_classes

    def num_recipes(self, shots: int) -> int:
        """Number of recipes of the n-shot set, which is a prefix of the plan."""
        return min(shots, self.shots) * self.num_classes

    @cached_property
    def _plain_fields(self) -> dict[str, Any]:
        """What the generator decides where no reference image is given."""
        return self.generator.recipe_fields()

    def _prompt(self, class_index: int, shot: int) -> Prompt:
        return make_prompt(self.strategy, self.dataset, class_index, shot, self.seed, self.materials)

    def __getitem__(self, index: int) -> Recipe:
        if not 0 <= index < len(self):
            raise IndexError(index)
        shot, class_index = divmod(index, self.num_classes)
        prompt = self._prompt(class_index, shot)
        noise = blake2b(
            f"{self.seed}/{self.dataset.name}/{class_index}/{shot}".encode(), digest_size=8, person=b"noise seed"
        )
        fields = dict(self._plain_fields)
        if prompt.reference_id:
            fields = self.generator.recipe_fields(prompt.reference_id, self.reference_mode, self.reference_scale)
        if self.guidance_scale is not None:
            fields["guidance_scale"] = self.guidance_scale
        elif prompt.negative and self.generator.negative_guidance_scale:
            fields["guidance_scale"] = self.generator.negative_guidance_scale
        return Recipe(
            source="generative",
            dataset=self.dataset.name,
            class_index=class_index,
            class_name=self.dataset.class_names[class_index],
            strategy=strategy_name(self.strategy),
            prompt=prompt.text,
            negative_prompt=prompt.negative,
            **fields,
            seed=int.from_bytes(noise.digest(), "big") >> 1,
        )
