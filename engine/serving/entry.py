"""What `serve run` and config files of Ray Serve build: the application from plain settings, and a strict check of such a file."""

import secrets
import sys
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, get_args, get_origin

from pydantic import BaseModel, TypeAdapter, ValidationError

from engine.names import unknown_name
from engine.serving.config import ServeConfig
from engine.serving.keys import OWN, hash_key, own_key


def application(settings: Mapping[str, Any]) -> Any:
    """The Serve application with these settings of `ServeConfig`.

    `IMAGEFOUNDRY_API_KEY` is the server's own key; without one, and without keys in the workspace, a key is made and printed.
    Raises ValueError for a setting that is unknown or invalid.
    """
    from engine.serving.deployments import build_application

    config = config_from(settings)
    key, is_new = own_key()
    if is_new:
        print(f"API key: {key}", file=sys.stderr, flush=True)
    return build_application(config, secrets.token_bytes(32), {hash_key(key): OWN})


def config_from(settings: Mapping[str, Any]) -> ServeConfig:
    """`ServeConfig` from plain values, as a command line or YAML has them. Raises ValueError in one sentence."""
    known = {field.name: field for field in fields(ServeConfig)}
    values = {}
    for name, value in settings.items():
        if name not in known:
            raise ValueError(unknown_name("setting", name, list(known)))
        if name == "generators" and isinstance(value, str):
            value = tuple(value.split(","))
        try:
            values[name] = TypeAdapter(known[name].type).validate_python(value)
        except ValidationError as error:
            message = error.errors()[0]["msg"]
            raise ValueError(f"setting {name} is {value!r}: {message[0].lower()}{message[1:]}") from None
    return ServeConfig(**values)


def check_serve_file(content: Mapping[str, Any]) -> None:
    """Checks a config file of Ray Serve (already read from YAML) more strictly than Ray does.

    Raises ValueError for a key that Ray would silently ignore, a host that is not named, a value of the wrong type, and settings
    that the application refuses.
    """
    from ray.serve.schema import ServeDeploySchema

    _check_keys(content, ServeDeploySchema, "the file")
    try:
        ServeDeploySchema.model_validate(dict(content))
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    if "host" not in content.get("http_options", {}):
        raise ValueError("http_options.host is missing, and Ray would listen on every interface; write 127.0.0.1")
    for one in content.get("applications", ()):
        if ":" not in one["import_path"] or "/" in one["import_path"]:
            raise ValueError(f"import_path {one['import_path']!r} is no MODULE:NAME; write serve.app:app")
        config_from(one.get("args", {})).check_values()


def _check_keys(content: Any, schema: type[BaseModel], where: str) -> None:
    if not isinstance(content, Mapping):
        raise ValueError(f"{where} is not a mapping of names to values; write one")
    for key, value in content.items():
        if key not in schema.model_fields:
            raise ValueError(f"{where}: {unknown_name('key', str(key), list(schema.model_fields))}")
        for inner in _models(schema.model_fields[key].annotation):
            for one in value if isinstance(value, list) else [value]:
                if isinstance(one, Mapping):
                    _check_keys(one, inner, f"{where}: {key}")


def _models(annotation: Any) -> list[type[BaseModel]]:
    """The pydantic models in a field's type."""
    if get_origin(annotation) is not None:
        return [model for part in get_args(annotation) for model in _models(part)]
    return [annotation] if isinstance(annotation, type) and issubclass(annotation, BaseModel) else []
