"""Textual Inversion: one learned token per category, fitted on reference images while the generator stays frozen (GenBench section 4)."""

from engine.models.inversion.config import PRESETS, InversionConfig, preset
from engine.models.inversion.tokens import LearnedToken, token_name

__all__ = ["PRESETS", "InversionConfig", "LearnedToken", "preset", "token_name"]
