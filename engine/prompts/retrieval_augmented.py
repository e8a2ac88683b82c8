"""Modifier `retrieval_augmented`: a retrieved image of the class as the image prompt (GenBench section 3.2, RealRAG)."""

from engine.prompts.parts import Modifier, Prompt, PromptRequest
from engine.prompts.sampling import each_once_then_sampled


def modify(prompt: Prompt, request: PromptRequest) -> Prompt:
    """Adds the id of a reference. Raises ValueError if the data set's references are missing."""
    name = request.dataset.name
    if name not in request.materials.references:
        raise ValueError(f"retrieval_augmented has no reference images for {name}; retrieve some first")
    ids = request.materials.references[name][request.class_index]
    return prompt._replace(reference_id=each_once_then_sampled("reference", ids, request))


RETRIEVAL_AUGMENTED = Modifier("retrieval_augmented", modify, needs_references=True)
