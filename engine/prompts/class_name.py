"""Base `class_name`: the name of the class alone."""

from engine.models.prompt_weights import escape
from engine.prompts.parts import Base, Prompt, PromptRequest


def write(request: PromptRequest) -> Prompt:
    """`airplane`."""
    return Prompt(escape(request.class_name))


CLASS_NAME = Base("class_name", write)
