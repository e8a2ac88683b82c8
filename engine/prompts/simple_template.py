"""Base `simple_template`: one template for every data set, "a photo of [CLASS NAME]" (GenBench section 2.3)."""

from engine.models.prompt_weights import escape
from engine.prompts.parts import Base, Prompt, PromptRequest
from engine.prompts.words import load_words


def write(request: PromptRequest) -> Prompt:
    """`a photo of airplane`."""
    template = load_words()["simple_template"]["template"]
    return Prompt(template.replace("{c}", escape(request.class_name)))


SIMPLE_TEMPLATE = Base("simple_template", write)
