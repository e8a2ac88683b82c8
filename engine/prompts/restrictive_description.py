"""Modifier `restrictive_description`: words for sharp, detailed images, with attention weights (GenBench section 2.3)."""

from engine.prompts.parts import Modifier, Prompt, PromptRequest
from engine.prompts.words import load_words


def modify(prompt: Prompt, request: PromptRequest) -> Prompt:
    """Appends the phrases, as `, ((sharp focus))`."""
    return prompt._replace(text=", ".join([prompt.text, *load_words()["restrictive_description"]["phrases"]]))


RESTRICTIVE_DESCRIPTION = Modifier("restrictive_description", modify)
