"""Prompt strategies: from a class of a data set to the text that a generator gets."""

from engine.prompts.parts import NO_MATERIALS, Base, Materials, Modifier, Prompt, PromptRequest
from engine.prompts.sentences import load_sentences
from engine.prompts.strategy import Strategy, make_prompt, strategy_name, strategy_names

__all__ = [
    "NO_MATERIALS",
    "Base",
    "Materials",
    "Modifier",
    "Prompt",
    "PromptRequest",
    "Strategy",
    "load_sentences",
    "make_prompt",
    "strategy_name",
    "strategy_names",
]
