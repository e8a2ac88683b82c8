"""Prompt strategies: from a data set's class to the text a generator is given."""

from engine.prompts.strategies import Prompt, make_prompt, strategy_names

__all__ = ["Prompt", "make_prompt", "strategy_names"]
