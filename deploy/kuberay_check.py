"""Checks of KubeRay's resources: its own schema, Ray's reading of the groups, and what neither of them finds."""

import gzip
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

SCHEMAS = Path(__file__).parent / "schemas"
KINDS = {
    "RayCluster": ("rayclusters", ""),
    "RayJob": ("rayjobs", "rayClusterSpec"),
    "RayService": ("rayservices", "rayClusterConfig"),
}
"""Kind → file of its schema, and field of its spec that holds the cluster; the spec itself if empty."""
SUBMISSION_MODES = ("K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode")
UPGRADES = ("NewCluster", "NewClusterWithIncrementalUpgrade", "None")
DRAIN = "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"
QUANTITY = re.compile(r"\d+(\.\d+)?(m|k|[KMGTPE]i?)?")
GPU = "nvidia.com/gpu"


def check_kuberay(content: Mapping[str, Any]) -> list[str]:
    """Mistakes, one sentence each. Raises ValueError for a resource that is not one of `KINDS`."""
    kind = content.get("kind")
    if kind not in KINDS or content["apiVersion"] != "ray.io/v1":
        raise ValueError(f"{content['apiVersion']} {kind} is not checked here; give ray.io/v1 {', '.join(KINDS)}")
    mistakes = _of_schema(content, kind)
    if mistakes:
        return mistakes  # what follows reads the fields that the schema promises
    spec, inner = content["spec"], KINDS[kind][1]
    cluster = spec[inner] if inner and inner in spec else spec
    if inner and inner not in spec:
        return [f"spec has no {inner}"]
    mistakes = [*_of_derive(content, cluster), *_of_cluster(cluster)]
    for name, group in _groups(cluster):
        mistakes += [f"group {name}: {one}" for one in _of_pod(group["template"]["spec"])]
    return mistakes + {"RayJob": _of_job, "RayService": _of_service}.get(kind, lambda spec: [])(spec)


@cache
def schema_of(kind: str) -> dict[str, Any]:
    """The strict JSON schema of a kind: a field that it does not name is a mistake."""
    text = gzip.decompress((SCHEMAS / f"{KINDS[kind][0]}.json.gz").read_bytes())
    found = _strict(json.loads(text))
    assert isinstance(found, dict)
    return found


def _strict(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_strict(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("x-kubernetes-int-or-string") is True:
        return {"type": ["integer", "string"]}
    found = {
        name: value if name == "enum" else _strict(value) for name, value in schema.items() if not name.startswith("x-")
    }
    if isinstance(schema.get("properties"), dict) and "type" in schema and "additionalProperties" not in schema:
        found["additionalProperties"] = False
    return found


def _of_schema(content: Mapping[str, Any], kind: str) -> list[str]:
    import jsonschema

    schema = schema_of(kind)
    # the schema of Kubernetes' own metadata is not part of KubeRay's
    schema = schema | {"properties": schema["properties"] | {"metadata": {"type": "object", "required": ["name"]}}}
    errors = sorted(
        jsonschema.Draft7Validator(schema).iter_errors(content), key=lambda error: list(map(str, error.absolute_path))
    )
    return [f"{'.'.join(map(str, one.absolute_path)) or 'the file'}: {one.message[:200]}" for one in errors]


def _of_derive(content: Mapping[str, Any], cluster: Mapping[str, Any]) -> list[str]:
    """Ray's own reading of the groups, as its autoscaler does it."""
    from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr

    named = {"namespace": "default"} | dict(content["metadata"])
    try:
        _derive_autoscaling_config_from_ray_cr({"metadata": named, "spec": cluster})
    except Exception as error:  # KeyError, ValueError, AssertionError, …: whatever its parsers raise
        return [f"Ray's autoscaler cannot read the groups: {type(error).__name__}: {error}"]
    return []


def _groups(cluster: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    yield "head", cluster["headGroupSpec"]
    for group in cluster.get("workerGroupSpecs", ()):
        yield group["groupName"], group


def _of_cluster(cluster: Mapping[str, Any]) -> list[str]:
    import ray

    mistakes = []
    counts = Counter(group["groupName"] for group in cluster.get("workerGroupSpecs", ()))
    mistakes += [
        f"{count} groups have the name {name}; each needs its own" for name, count in counts.items() if count > 1
    ]
    for group in cluster.get("workerGroupSpecs", ()):
        least, now, most = group["minReplicas"], group.get("replicas", group["minReplicas"]), group["maxReplicas"]
        if not least <= now <= most:
            mistakes.append(
                f"group {group['groupName']}: minReplicas {least}, replicas {now} and maxReplicas {most} are not in order"
            )
    if cluster.get("authOptions", {}).get("mode") != "token":
        mistakes.append(
            "authOptions.mode is not token: Ray listens on every interface, and only its token keeps others out"
        )
    if cluster.get("rayVersion") != ray.__version__:
        mistakes.append(f"rayVersion is {cluster.get('rayVersion')}, and the images have {ray.__version__}")
    options = cluster.get("autoscalerOptions", {})
    if options and not cluster.get("enableInTreeAutoscaling"):
        mistakes.append("autoscalerOptions has no effect without enableInTreeAutoscaling: true")
    return mistakes


def _of_pod(pod: Mapping[str, Any]) -> list[str]:
    mistakes = []
    first = pod["containers"][0]  # KubeRay runs Ray in the first container
    volumes = {volume["name"] for volume in pod.get("volumes", ())}
    for container in pod["containers"]:
        missing = [one["name"] for one in container.get("volumeMounts", ()) if one["name"] not in volumes]
        mistakes += [f"volumeMounts names {name}, and no volume has this name" for name in missing]
        resources = container.get("resources", {})
        for part in ("requests", "limits"):
            for name, value in resources.get(part, {}).items():
                if not QUANTITY.fullmatch(str(value)):
                    mistakes.append(f"{part}.{name} {value!r} is no quantity; write 4, 500m or 16Gi")
        asked, limit = resources.get("requests", {}).get(GPU), resources.get("limits", {}).get(GPU)
        if asked is not None and str(asked) != str(limit):
            mistakes.append(
                f"requests has {asked} of {GPU} and limits {limit or 'none'}; Kubernetes wants the same in both"
            )
    if "cpu" not in first.get("resources", {}).get("limits", {}):
        mistakes.append("limits.cpu is missing, so Ray would take all processors of the node for its own")
    if ":" not in first.get("image", "").rpartition("/")[2]:
        mistakes.append(f"image {first.get('image')!r} has no tag, so nodes may run different versions")
    drain = next((float(one["value"]) for one in first.get("env", ()) if one["name"] == DRAIN and "value" in one), 30.0)
    grace = pod.get("terminationGracePeriodSeconds", 30)  # Kubernetes' default; KubeRay sets none
    if grace <= drain:
        mistakes.append(f"terminationGracePeriodSeconds is {grace}, and a node drains for {drain:g} s; make it longer")
    return mistakes


def _of_job(spec: Mapping[str, Any]) -> list[str]:
    mistakes = []
    if spec.get("submissionMode", "K8sJobMode") not in SUBMISSION_MODES:
        mistakes.append(f"submissionMode {spec['submissionMode']} is none of {', '.join(SUBMISSION_MODES)}")
    if not spec.get("shutdownAfterJobFinishes"):
        mistakes.append("shutdownAfterJobFinishes is not set, so the cluster stays, and costs, when the job has ended")
    if "activeDeadlineSeconds" not in spec:
        mistakes.append("activeDeadlineSeconds is missing, so nothing bounds what the job may cost")
    return mistakes


def _of_service(spec: Mapping[str, Any]) -> list[str]:
    from engine.serving.entry import check_serve_file

    mistakes = []
    upgrade = spec.get("upgradeStrategy", {}).get("type", "NewCluster")
    if upgrade not in UPGRADES:
        mistakes.append(f"upgradeStrategy.type {upgrade} is none of {', '.join(UPGRADES)}")
    elif upgrade != "None":
        mistakes.append(
            "upgradeStrategy.type is not None: the new cluster would wait for the workspace's lock of the old one"
        )
    try:
        content = yaml.safe_load(spec.get("serveConfigV2", ""))
        if not isinstance(content, Mapping):
            return [*mistakes, "serveConfigV2 holds no configuration of Ray Serve"]
        check_serve_file(content)
    except (ValueError, yaml.YAMLError) as error:
        return [*mistakes, f"serveConfigV2: {str(error).splitlines()[0]}"]
    return mistakes + _of_service_address(content, spec["rayClusterConfig"])


def _of_service_address(content: Mapping[str, Any], cluster: Mapping[str, Any]) -> list[str]:
    mistakes = []
    http = content["http_options"]
    if http["host"] in ("127.0.0.1", "localhost"):
        mistakes.append(f"serveConfigV2: host {http['host']} is not reached by the service; write 0.0.0.0")
    head = cluster["headGroupSpec"]["template"]["spec"]["containers"][0]
    port = http.get("port", 8000)
    if port not in [one["containerPort"] for one in head.get("ports", ())]:
        mistakes.append(f"serveConfigV2: port {port} is not among the ports of the head's container")
    return mistakes
