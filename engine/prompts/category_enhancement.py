"""Base `category_enhancement`: sentences that a language model wrote about the class (GenBench section 2.3)."""

from engine.models.prompt_weights import escape
from engine.prompts.parts import Base, Prompt, PromptRequest
from engine.prompts.sampling import each_once_then_sampled


def write(request: PromptRequest) -> Prompt:
    """`A cat sits on a sofa.` Raises ValueError if the data set's sentences are missing."""
    name = request.dataset.name
    if name not in request.materials.sentences:
        raise ValueError(f"category_enhancement has no sentences of {name}; make them with load_sentences first")
    sentences = request.materials.sentences[name][request.class_index]
    return Prompt(escape(each_once_then_sampled("sentence", sentences, request)))


CATEGORY_ENHANCEMENT = Base("category_enhancement", write, needs_sentences=True)
