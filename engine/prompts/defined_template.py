"""Base `defined_template`: the data set's own templates, each once and then at random (GenBench section 2.3)."""

from engine.models.prompt_weights import escape
from engine.prompts.parts import Base, Prompt, PromptRequest
from engine.prompts.sampling import each_once_then_sampled


def write(request: PromptRequest) -> Prompt:
    """`a photo of a British Shorthair, a type of pet.`"""
    template = each_once_then_sampled("template", request.dataset.templates, request)
    return Prompt(template.replace("{c}", escape(request.class_name)))


DEFINED_TEMPLATE = Base("defined_template", write)
