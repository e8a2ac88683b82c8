#!/usr/bin/env python3
"""Writes docs/deploy.md from howto.md.jinja and the cluster files, so that names, sizes, commands and prices cannot drift.

python -m deploy.howto
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from deploy.kuberay_check import DRAIN
from engine.costs import PriceBook

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "deploy.md"
FILES = {
    "aws": "deploy/aws.yaml",
    "cluster": "deploy/kuberay/raycluster.yaml",
    "job": "deploy/kuberay/rayjob.yaml",
    "service": "deploy/kuberay/rayservice.yaml",
    "serve": "serve/config.yaml",
}


def render() -> str:
    """The page. Raises KeyError if a file lacks what the page shows, or the price book an instance of the files."""
    import jinja2

    read = {name: yaml.safe_load((ROOT / file).read_text("utf-8")) for name, file in FILES.items()}
    facts = {"aws": _aws(read["aws"]), "slurm": _slurm(), "docker": _docker(), "serve": _serve(read["serve"])}
    facts |= {name: _kuberay(name, read[name]) for name in ("cluster", "job", "service")}
    facts["kube"] = facts["cluster"]
    pod = read["cluster"]["spec"]["headGroupSpec"]["template"]["spec"]
    drain = next(one["value"] for one in pod["containers"][0]["env"] if one["name"] == DRAIN)
    instances = {facts["aws"][f"{kind}_type"] for kind in ("head", "cpu", "gpu")}
    prices = ", ".join(f"{name} {_usd(name):g} USD" for name in sorted(instances))
    rows = [
        ("an AWS account", "aws"), ("Kubernetes, one run", "job"), ("Kubernetes, many runs", "cluster"), ("Kubernetes, a server", "service")
    ]  # fmt: skip
    costs = [{"you_have": what, "file": FILES[name], "usd": facts[name]["usd"]} for what, name in rows]
    costs.append({"you_have": "a Slurm cluster", "file": facts["slurm"]["file"], "usd": "yours"})
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True, autoescape=False)
    template = environment.from_string((ROOT / "deploy" / "howto.md.jinja").read_text("utf-8"))
    return template.render(facts, costs=costs, prices=prices, drain=drain, grace=pod["terminationGracePeriodSeconds"])


def _usd(instance_type: str) -> float:
    """US dollars per hour of an EC2 instance type, as the price book has it."""
    return PriceBook.load().instance(f"aws-{instance_type.replace('.', '-')}").usd_per_hour


def _aws(content: Mapping[str, Any]) -> dict[str, Any]:
    types = content["available_node_types"]
    found: dict[str, Any] = {"file": FILES["aws"], "idle": content["idle_timeout_minutes"]}
    for name, node in types.items():
        found |= {f"{name}_type": node["node_config"]["InstanceType"], f"{name}_most": node["max_workers"]}
    most = sum(_usd(found[f"{name}_type"]) * found[f"{name}_most"] for name in ("cpu", "gpu"))
    found["usd"] = f"{_usd(found['head_type']):.2f} (head alone) to {_usd(found['head_type']) + most:.2f}"
    return found


def _kuberay(name: str, content: Mapping[str, Any]) -> dict[str, Any]:
    spec = content["spec"]
    cluster = spec.get("rayClusterSpec") or spec.get("rayClusterConfig") or spec
    groups = {group["groupName"]: group for group in cluster["workerGroupSpecs"]}
    head = cluster["headGroupSpec"]["template"]["spec"]
    found: dict[str, Any] = {"file": FILES[name], "name": content["metadata"]["name"]}
    for kind, group in groups.items():
        found[f"{kind}_type"] = next(iter(group["template"]["spec"]["nodeSelector"].values()))
    # the head has no nodeSelector: priced as a node of the processor group's family that is large enough
    head_usd = _usd("r6i.2xlarge")
    usd = [
        head_usd + sum(_usd(found[f"{kind}_type"]) * group[bound] for kind, group in groups.items())
        for bound in ("minReplicas", "maxReplicas")
    ]
    found["usd"] = f"{usd[0]:.2f} to {usd[1]:.2f}"
    found["secret"] = head["containers"][0]["envFrom"][0]["secretRef"]["name"]
    found["groups"] = " and ".join(
        f"`{kind}` ({group['minReplicas']} to {group['maxReplicas']} pods)" for kind, group in groups.items()
    )
    found["idle"] = cluster["autoscalerOptions"]["idleTimeoutSeconds"]
    if name == "job":
        flags = dict(re.findall(r"--(workspace|report) (\S+)", spec["entrypoint"]))
        hours = spec["activeDeadlineSeconds"] / 3600
        claims = [
            one["persistentVolumeClaim"]["claimName"] for one in head["volumes"] if "persistentVolumeClaim" in one
        ]
        found |= {"entrypoint": spec["entrypoint"].strip(), "backoff": spec["backoffLimit"]}
        found |= {"ttl": spec["ttlSecondsAfterFinished"], "hours": f"{hours:g}", "claim": claims[0]}
        found |= flags | {"tries": 1 + spec["backoffLimit"]}
        # each try has a deadline of its own
        found["usd_most"] = f"{usd[1] * hours * (1 + spec['backoffLimit']):,.0f}"
    if name == "service":
        serve = yaml.safe_load(spec["serveConfigV2"])
        found |= {
            "port": serve["http_options"]["port"],
            "least": groups["gpu"]["minReplicas"],
            "most": groups["gpu"]["maxReplicas"],
        }
        found["generators"] = " and ".join(serve["applications"][0]["args"]["generators"])
        found["key_secret"] = head["containers"][0]["envFrom"][1]["secretRef"]["name"]
    return found


def _serve(content: Mapping[str, Any]) -> dict[str, Any]:
    return {"file": FILES["serve"], "host": content["http_options"]["host"], "port": content["http_options"]["port"]}


def _slurm() -> dict[str, str]:
    text = (ROOT / "deploy" / "slurm.sh").read_text("utf-8")
    options = dict(re.findall(r"^#SBATCH --([\w-]+)=(.*)$", text, re.MULTILINE))
    return {
        "file": "deploy/slurm.sh",
        "name": options["job-name"],
        "nodes": options["nodes"],
        "gpus": options["gpus-per-node"],
        "cpus": options["cpus-per-task"],
        "time": str(int(options["time"].split(":")[0])),
        "warning": options["signal"].partition("@")[2],
    }


def _docker() -> dict[str, Any]:
    text = (ROOT / "deploy" / "Dockerfile").read_text("utf-8")
    builds = re.findall(r"^#   (docker build .*)$", text, re.MULTILINE)
    tags = [re.findall(r"--tag (\S+)", build)[0] for build in builds]
    return {"builds": builds, "tags": tags, "registry": tags[0].rpartition("/")[0]}


if __name__ == "__main__":
    PAGE.write_text(render(), "utf-8")
    print(PAGE)
