"""Models: encoders (open_clip) and generators (diffusers), loaded by name, hub id or folder. Runs without Ray."""

from engine.models.encoder import ImageEncoder, load_encoder
from engine.models.generator import DiffusionGenerator, load_generator
from engine.models.registry import GeneratorSpec, encoder_names, generator_names, generator_spec

__all__ = [
    "DiffusionGenerator",
    "GeneratorSpec",
    "ImageEncoder",
    "encoder_names",
    "generator_names",
    "generator_spec",
    "load_encoder",
    "load_generator",
]
