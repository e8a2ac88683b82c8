"""Base `written_prompt`: the prompts that a file has for the class, each once and then at random (RealRAG section 4.3)."""

from engine.models.prompt_weights import escape
from engine.prompts.parts import Base, Prompt, PromptRequest
from engine.prompts.sampling import each_once_then_sampled


def write(request: PromptRequest) -> Prompt:
    """`A Cybertruck is speeding along the Great Wall.` Raises ValueError if the data set has no prompts."""
    dataset = request.dataset
    if not dataset.prompts:
        raise ValueError(f"written_prompt has no prompts of {dataset.name}; give a file of them, or another strategy")
    return Prompt(escape(each_once_then_sampled("prompt", dataset.prompts[request.class_index], request)))


WRITTEN_PROMPT = Base("written_prompt", write)
