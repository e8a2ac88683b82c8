"""Checks of a configuration of Ray's cluster launcher (`ray up`) on AWS."""

import contextlib
import io
import json
from collections.abc import Mapping
from functools import cache
from typing import Any


def check_launcher(content: Mapping[str, Any]) -> list[str]:
    """Mistakes, one sentence each: Ray's schema first, then what it does not look at."""
    mistakes = [*_of_rays_schema(content), *_of_nodes(content)]
    if content.get("provider", {}).get("type") == "aws":
        for name, node in _node_types(content).items():
            mistakes += [f"node type {name}: {one}" for one in _of_ec2(node.get("node_config", {}))]
    if "auth_token" not in str(content.get("file_mounts", "")):
        mistakes.append(
            "file_mounts has no ~/.ray/auth_token: Ray listens on every interface, and only its token keeps others out"
        )
    return mistakes


def _of_rays_schema(content: Mapping[str, Any]) -> list[str]:
    from jsonschema.exceptions import ValidationError
    from ray.autoscaler._private.util import prepare_config, validate_config

    try:
        with contextlib.redirect_stderr(io.StringIO()):
            validate_config(prepare_config(json.loads(json.dumps(content))))
    except ValidationError as error:
        return [f"{'.'.join(map(str, error.absolute_path)) or 'the file'}: {error.message}"]
    except (ValueError, KeyError, TypeError, RuntimeError) as error:
        return [f"Ray cannot read the file: {error}"]
    return []


def _node_types(content: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    found = content.get("available_node_types", {})
    return (
        {name: node for name, node in found.items() if isinstance(node, Mapping)} if isinstance(found, Mapping) else {}
    )


def _of_nodes(content: Mapping[str, Any]) -> list[str]:
    from ray.autoscaler._private.providers import _NODE_PROVIDERS

    mistakes = []
    provider, types = content.get("provider", {}).get("type"), _node_types(content)
    if provider not in _NODE_PROVIDERS:
        mistakes.append(f"provider.type {provider!r} is none of Ray's ({', '.join(sorted(_NODE_PROVIDERS))})")
    head = content.get("head_node_type")
    if head not in types:
        mistakes.append(f"head_node_type {head!r} is none of available_node_types ({', '.join(types)})")
    total = content.get("max_workers", 0)
    for name, node in types.items():
        least, most = node.get("min_workers", 0), node.get("max_workers", 0)
        if not all(isinstance(one, int) for one in (least, most, total)):
            continue  # the schema names it
        if least > most:
            mistakes.append(f"node type {name}: min_workers is {least}, more than max_workers, {most}")
        if most > total:
            mistakes.append(f"node type {name}: max_workers is {most}, more than max_workers of the cluster, {total}")
    return mistakes


@cache
def _run_instances() -> Any:
    """What EC2's RunInstances takes, from the service description that botocore ships."""
    try:
        from botocore.session import Session
    except ImportError as error:
        raise ValueError("checking a file for AWS needs botocore; pip install 'imagefoundry[s3]'") from error
    return Session().get_service_model("ec2").operation_model("RunInstances").input_shape


def _of_ec2(node: Mapping[str, Any]) -> list[str]:
    from botocore.validate import ParamValidator

    shape = _run_instances()
    mistakes = [f"node_config: EC2 knows no {name}" for name in node if name not in shape.members]
    if "InstanceType" not in node:
        return [*mistakes, "node_config has no InstanceType"]
    known = shape.members["InstanceType"].enum
    if node["InstanceType"] not in known:
        mistakes.append(f"node_config: EC2 has no instance type {node['InstanceType']}")
    values = {name: value for name, value in node.items() if name in shape.members} | {"MinCount": 1, "MaxCount": 1}
    report = ParamValidator().validate(values, shape)
    if report.has_errors():
        mistakes += [f"node_config: {' '.join(line.split())}" for line in report.generate_report().splitlines()]
    market = node.get("InstanceMarketOptions", {}).get("MarketType", "spot")
    if market not in shape.members["InstanceMarketOptions"].members["MarketType"].enum:
        mistakes.append(f"node_config: EC2 knows no MarketType {market}")
    return mistakes
