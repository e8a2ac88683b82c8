"""Prompt strategies: from a data set's class to the text a generator is given."""

from engine.prompts.sentences import load_sentences
from engine.prompts.strategies import NO_MATERIALS, Materials, Prompt, make_prompt, strategy_name, strategy_names

__all__ = ["NO_MATERIALS", "Materials", "Prompt", "load_sentences", "make_prompt", "strategy_name", "strategy_names"]
