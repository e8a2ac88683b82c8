"""Encoders (open_clip) and generators (diffusers), loaded by name, Hub id or folder. Needs no Ray."""

from engine.models.device import device_name, torch_device
from engine.models.encoder import ImageEncoder, load_encoder
from engine.models.faults import DeviceFault, is_device_fault
from engine.models.generator import DiffusionGenerator
from engine.models.load import load_generator
from engine.models.preprocessing import Preprocessing
from engine.models.registry import encoder_names, generator_names
from engine.models.resolve import generator_spec
from engine.models.spec import GeneratorSpec

__all__ = [
    "DeviceFault",
    "DiffusionGenerator",
    "GeneratorSpec",
    "ImageEncoder",
    "Preprocessing",
    "device_name",
    "encoder_names",
    "generator_names",
    "generator_spec",
    "is_device_fault",
    "load_encoder",
    "load_generator",
    "torch_device",
]
