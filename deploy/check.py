#!/usr/bin/env python3
"""Checks the cluster files before anything is paid for: Ray's and KubeRay's own schemas, and what none of them finds.

python -m deploy.check                       # the files of this folder
python -m deploy.check my-cluster.yaml …     # yours: KubeRay resources, configurations of `ray up` and of Ray Serve
"""

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from deploy.aws import check_launcher
from deploy.kuberay_check import check_kuberay
from engine.serving.entry import check_serve_file

FOLDER = Path(__file__).parent
SHIPPED = (*sorted((FOLDER / "kuberay").glob("*.yaml")), FOLDER / "aws.yaml", FOLDER.parent / "serve" / "config.yaml")


def check_file(path: Path) -> list[str]:
    """Mistakes in a cluster file, one sentence each; none if it is sound. The kind of file is known by its content.

    Raises ValueError for a file that cannot be read or that is none of these kinds.
    """
    try:
        documents = [each for each in yaml.safe_load_all(path.read_text("utf-8")) if each is not None]
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"cannot read {path}: {str(error).splitlines()[0]}; give a YAML file") from error
    if not documents:
        raise ValueError(f"{path} is empty; give a cluster file")
    return [mistake for content in documents for mistake in check_content(content)]


def check_content(content: Any) -> list[str]:
    """Mistakes in the content of one cluster file. Raises ValueError if it is no cluster file."""
    if isinstance(content, Mapping) and "apiVersion" in content:
        return check_kuberay(content)
    if isinstance(content, Mapping) and "cluster_name" in content:
        return check_launcher(content)
    if isinstance(content, Mapping) and "applications" in content:
        try:
            check_serve_file(content)
        except ValueError as error:
            return [str(error)]
        return []
    raise ValueError(
        "the file is neither a KubeRay resource (apiVersion), nor a configuration of `ray up` (cluster_name), nor one of Ray Serve "
        "(applications)"
    )


def main(arguments: list[str] | None = None) -> int:
    """Prints the mistakes of each file; returns 1 if there is one, 2 if a file cannot be checked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path, help="files to check; those of this folder by default")
    code = 0
    for path in parser.parse_args(arguments).files or SHIPPED:
        try:
            mistakes = check_file(path)
        except ValueError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        print(f"{path}: {'ok' if not mistakes else f'{len(mistakes)} mistakes'}")
        for mistake in mistakes:
            print(f"  {mistake}")
            code = 1
    return code


if __name__ == "__main__":
    sys.exit(main())
