"""Modifier `negative_prompts`: other classes of the data set as the negative prompt (GenBench section 2.3)."""

from collections.abc import Sequence

from engine.models.prompt_weights import escape
from engine.prompts.parts import Modifier, Prompt, PromptRequest
from engine.prompts.sampling import hash_of, sample_distinct
from engine.prompts.words import load_words


def modify(prompt: Prompt, request: PromptRequest) -> Prompt:
    """Adds up to five other class names. Raises ValueError if the data set has only one class."""
    names, class_index = request.dataset.class_names, request.class_index
    num_others = len(names) - 1
    if num_others < 1:
        raise ValueError(
            f"negative_prompts needs another class than the only one of {request.dataset.name}; drop the strategy"
        )
    num_sampled: int = load_words()["negative_prompts"]["num_categories"]
    others: Sequence[int] = range(num_others)
    if num_others > num_sampled:
        others = sample_distinct(num_others, num_sampled, hash_of("negatives", request))
    # number n of the others is class n, or n + 1 from this class on
    return prompt._replace(negative=escape(", ".join(names[other + (other >= class_index)] for other in others)))


NEGATIVE_PROMPTS = Modifier("negative_prompts", modify)
