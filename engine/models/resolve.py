"""`generator_spec`: the spec of a generator from its name or its folder, with the user's choices applied."""

import json
from collections.abc import Mapping
from dataclasses import fields, replace
from functools import cache
from pathlib import Path
from typing import Any

from engine.models.generators import adapter_of
from engine.models.registry import generator_entries, generator_names, reference_scales, resolve_source
from engine.models.spec import MODE_AUXILIARIES, SPEEDS, Auxiliary, GeneratorSpec
from engine.models.speed import LEVERS
from engine.models.weights import BYTES, check_weights, count_parameters, folder_revision
from engine.names import unknown_name


def generator_spec(
    name: str, *, source: str = "", speed: str = "exact", auxiliaries: Mapping[str, str] | None = None
) -> GeneratorSpec:
    """The spec of a generator.

    Args:
        name: registry name or diffusers folder.
        source: Hub id (`owner/name` or `owner/name@revision`) or folder of the weights, instead of the entry's.
        speed: one of `SPEEDS`.
        auxiliaries: purpose → Hub id or folder, instead of the entry's or in addition to them.

    Raises:
        ValueError: `name` is neither a registry name nor a diffusers folder, its entry is invalid, its weights are pickles,
            or it does not support the speed or an auxiliary.
    """
    entry = generator_entries().get(name)
    spec = _from_entry(name, entry) if entry is not None else _from_folder(name)
    if source:
        where, revision = _where(source)
        # another revision of the same Hub id has the same file variant
        variant = spec.variant if where == spec.source else ""
        spec = replace(spec, source=where, revision=revision, variant=variant)
    scales, adapter = reference_scales(), adapter_of(spec.pipeline)
    models = dict(spec.auxiliaries)
    for purpose, given in (auxiliaries or {}).items():
        if purpose in scales and purpose not in adapter.mode_pipelines:
            raise ValueError(f"{spec.pipeline} does not support {purpose}; leave it out")
        where, revision = _where(given)
        models[purpose] = replace(models.get(purpose, Auxiliary(source=where)), source=where, revision=revision)
    for purpose, auxiliary in models.items():
        if auxiliary.is_local:
            models[purpose] = replace(auxiliary, revision=_revision(auxiliary.source))
    modes = {
        mode: spec.reference_modes.get(mode, scales[mode])
        for mode in [*spec.reference_modes, *models]
        if mode in scales
    }
    spec = replace(spec, auxiliaries=models, reference_modes=modes, speed=_check_speed(spec, speed))
    if not spec.is_local:
        return spec
    folder = Path(spec.source)
    return replace(
        spec,
        revision=_revision(spec.source),
        variant="",
        parameters=count_parameters(folder),
        denoiser_parameters=count_parameters(folder / adapter.denoiser_name) if spec.denoiser_parameters else 0.0,
    )


def _where(source: str) -> tuple[str, str]:
    """Folder or Hub id, and revision, of a source that a user gave. Raises ValueError if it is neither."""
    if Path(source).is_dir():
        return str(Path(source).resolve()), "main"
    name, _, revision = source.partition("@")
    if name.count("/") != 1:
        raise ValueError(
            f"generator source {source} is neither a folder nor a Hub id OWNER/NAME or OWNER/NAME@REVISION; give one of them"
        )
    return name, revision or "main"


_ENTRY_FIELDS = {field.name for field in fields(GeneratorSpec)} - {
    "name",
    "speed",
    "parameters",
    "denoiser_parameters",
} | {"reference_scales", "parameters_billion", "denoiser_billion"}
"""Fields of an entry in `registry.toml`."""
_AUXILIARY_FIELDS = {field.name for field in fields(Auxiliary)}


def _check_entry(name: str, entry: Mapping[str, Any]) -> None:
    """Raises ValueError for an unknown or missing field, pipeline class, reference mode, auxiliary, dtype, speed or lever."""
    for key in entry:
        if key not in _ENTRY_FIELDS:
            raise ValueError(f"generator {name}: {unknown_name('field', key, sorted(_ENTRY_FIELDS))}")
    for key in ("pipeline", "source"):
        if key not in entry:
            raise ValueError(f"generator {name} has no {key}; add it to its entry")
    adapter, auxiliaries = adapter_of(entry["pipeline"]), entry.get("auxiliaries", {})
    for mode in entry.get("reference_modes", ()):
        if mode not in adapter.mode_pipelines:
            known = ", ".join(adapter.mode_pipelines) or "none"
            raise ValueError(
                f"generator {name}: {entry['pipeline']} does not support reference mode {mode!r}; choose from: {known}"
            )
        for purpose in () if mode in adapter.own_modes else MODE_AUXILIARIES.get(mode, (mode,)):
            if purpose not in auxiliaries:
                raise ValueError(
                    f"generator {name} lists reference mode {mode!r} without auxiliary {purpose}; add it to auxiliaries"
                )
    for purpose, auxiliary in auxiliaries.items():
        for key in auxiliary:
            if key not in _AUXILIARY_FIELDS:
                raise ValueError(f"generator {name}: {unknown_name('field', key, sorted(_AUXILIARY_FIELDS))}")
        if "source" not in auxiliary:
            raise ValueError(f"generator {name} has no source of auxiliary {purpose}; add it to its entry")
    if (dtype := entry.get("dtype", "float32")) not in BYTES:
        raise ValueError(f"generator {name}: {unknown_name('dtype', dtype, list(BYTES))}")
    for speed, levers in entry.get("levers", {}).items():
        for kind, value, choices in (("speed", speed, SPEEDS), *(("lever", lever, tuple(LEVERS)) for lever in levers)):
            if value not in choices:
                raise ValueError(f"generator {name}: {unknown_name(kind, value, choices)}")


def _from_entry(name: str, entry: Mapping[str, Any]) -> GeneratorSpec:
    _check_entry(name, entry)
    scales = {**reference_scales(), **entry.get("reference_scales", {})}
    values = {key: value for key, value in entry.items() if key in {field.name for field in fields(GeneratorSpec)}}
    return GeneratorSpec(
        name=name,
        **values
        | {
            "source": resolve_source(entry["source"]),
            "reference_modes": {mode: scales[mode] for mode in entry.get("reference_modes", ())},
            "auxiliaries": {key: _auxiliary(value) for key, value in entry.get("auxiliaries", {}).items()},
            "levers": {speed: tuple(levers) for speed, levers in entry.get("levers", {}).items()},
            "parameters": entry.get("parameters_billion", 0.0) * 1e9,
            "denoiser_parameters": entry.get("denoiser_billion", 0.0) * 1e9,
            "facts": tuple(entry.get("facts", ())),
        },
    )


def _auxiliary(entry: Mapping[str, Any]) -> Auxiliary:
    low, high = entry.get("edge_range", (0.0, 1.0))
    return Auxiliary(**{**entry, "source": resolve_source(entry["source"]), "edge_range": (low, high)})


def _from_folder(name: str) -> GeneratorSpec:
    folder = Path(name)
    if (folder / "model_index.json").is_file():
        check_weights(folder)
        pipeline = json.loads((folder / "model_index.json").read_text()).get("_class_name", "")
        adapter, scales = adapter_of(pipeline), reference_scales()
        return GeneratorSpec(
            name=folder.resolve().name,
            pipeline=pipeline,
            source=str(folder.resolve()),
            reference_modes={mode: scales[mode] for mode in adapter.own_modes},
            **adapter.native_size(folder),
        )
    if folder.is_dir():
        raise ValueError(
            f"{name} is not a diffusers folder (model_index.json is missing); save a pipeline there with save_pretrained"
        )
    raise ValueError(unknown_name("generator", name, generator_names(), "or give the path of a diffusers folder"))


def _check_speed(spec: GeneratorSpec, speed: str) -> str:
    if speed not in SPEEDS:
        raise ValueError(unknown_name("speed", speed, SPEEDS))
    if speed != "exact" and not spec.levers.get(speed):
        supported = [name for name in SPEEDS if name == "exact" or spec.levers.get(name)]
        raise ValueError(f"generator {spec.name} does not support --speed {speed}; choose from: {', '.join(supported)}")
    return speed


@cache
def _revision(folder: str) -> str:
    return folder_revision(Path(folder))
