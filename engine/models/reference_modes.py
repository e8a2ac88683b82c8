"""Loads what a reference mode needs (a ControlNet, an IP-Adapter, Redux) and builds its pipeline from the loaded components."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from engine.models.generators import PipelineAdapter, ReferenceModels
from engine.models.loading_errors import loading_errors
from engine.models.spec import Auxiliary, GeneratorSpec
from engine.models.weights import check_weights


def open_mode(mode: str, adapter: PipelineAdapter, spec: GeneratorSpec, dtype: str) -> tuple[Any, ReferenceModels]:
    """The pipeline that runs a reference mode, and the models that it needs besides its own components.

    The pipeline shares the weights of `adapter.pipeline`; the other models are loaded in `dtype` onto the same device.
    Raises ValueError for weights that are pickled, missing or do not fit.
    """
    import diffusers

    models = ReferenceModels()
    more: dict[str, Any] = {}
    if mode == "controlnet":
        auxiliary = spec.auxiliaries[mode]
        more["controlnet"] = _load(getattr(diffusers, adapter.controlnet_model), auxiliary, adapter.device, dtype)
        models.preprocessor, models.edge_range = auxiliary.preprocessor, auxiliary.edge_range
    elif mode == "ip_adapter":
        models.switch = _load_ip_adapter(adapter, spec, dtype)
    elif mode == "redux":
        models.redux = _load(diffusers.FluxPriorReduxPipeline, spec.auxiliaries[mode], adapter.device, dtype)
    class_name = adapter.mode_pipelines[mode]
    if not class_name:
        return adapter.pipeline, models
    mode_class = getattr(diffusers, class_name)
    accepted = inspect.signature(mode_class.__init__).parameters
    shared = {name: part for name, part in adapter.pipeline.components.items() if name in accepted}
    pipeline = mode_class(**shared, **more)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline, models


def _load(model_class: Any, auxiliary: Auxiliary, device: str, dtype: str) -> Any:
    import torch

    if auxiliary.is_local:
        check_weights(Path(auxiliary.source))
    with loading_errors("generator", auxiliary.source, auxiliary.gated):
        model = model_class.from_pretrained(
            auxiliary.source, dtype=getattr(torch, dtype), **auxiliary.from_pretrained_arguments
        )
    return model.to(device)


def _load_ip_adapter(adapter: PipelineAdapter, spec: GeneratorSpec, dtype: str) -> Callable[[bool], None]:
    """Loads an IP-Adapter and its image encoder, and returns a switch that turns it on and off.

    Off restores the attention processors and the projection from before, so images without a reference stay bit-identical.
    """
    from transformers import CLIPImageProcessor, CLIPVisionModelWithProjection

    pipeline, denoiser = adapter.pipeline, adapter.denoiser
    encoder = _load(CLIPVisionModelWithProjection, spec.auxiliaries["image_encoder"], adapter.device, dtype)
    size = encoder.config.image_size
    pipeline.register_modules(image_encoder=encoder, feature_extractor=CLIPImageProcessor(size=size, crop_size=size))
    weights = spec.auxiliaries["ip_adapter"]
    plain = denoiser.attn_processors, getattr(denoiser, "encoder_hid_proj", None)
    with loading_errors("generator", weights.source, weights.gated):
        pipeline.load_ip_adapter(
            weights.source,
            subfolder=weights.subfolder,
            weight_name=weights.weights,
            revision=None if weights.is_local else weights.revision,
            local_files_only=weights.is_local,
            **{_image_encoder_argument(pipeline): None},
        )
    projection = denoiser.encoder_hid_proj.to(device=adapter.device, dtype=denoiser.dtype)
    adapted = denoiser.attn_processors, projection

    def switch(on: bool) -> None:
        processors, projection = adapted if on else plain
        denoiser.set_attn_processor(dict(processors))
        denoiser.encoder_hid_proj = projection

    switch(False)
    return switch


def _image_encoder_argument(pipeline: Any) -> str:
    """The argument of `load_ip_adapter` that names the image encoder, which differs between pipelines."""
    names = inspect.signature(pipeline.load_ip_adapter).parameters
    return next(name for name in names if name.startswith("image_encoder_") and name.endswith(("_folder", "_path")))
