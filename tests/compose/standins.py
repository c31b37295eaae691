"""Local stand-ins for the images that compose and the Dockerfiles name, where no registry can be reached:

    RILL_STANDINS=SCRIPT python -m tests.compose.standins

SCRIPT starts a container engine and makes images of a kind under a tag: SCRIPT TAG=KIND ... What they lack of
the originals is added here. Uses only the standard library, as it runs before anything is installed."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

from tests.compose.stack import PATH, one_at_a_time, run

ROOT = Path(__file__).parents[2]
KINDS = {
    "python": "python",
    "nginx": "nginx",
    "redis": "redis",
    "prom/prometheus": "prometheus",
    "prom/alertmanager": "base",
}
NOBODY = "install -d -o nobody -g nogroup"
LACKS = {
    "prom/prometheus": f"{NOBODY} /prometheus",
    "prom/alertmanager": (
        "apt-get update -q && apt-get install -qy --no-install-recommends prometheus-alertmanager"
        f" && ln -s prometheus-alertmanager /usr/bin/alertmanager && {NOBODY} /alertmanager"
    ),
}
LABEL = "rill.standin"  # set when the image is complete


def images() -> list[str]:
    """The tags that compose and the CPU image name, without images of our own and Grafana's, which the script does not
    make."""
    text = "".join((ROOT / name).read_text() for name in ("docker-compose.yml", "deploy/Dockerfile"))
    found = re.findall(r"^(?: +image:|FROM) (?:\$\{\w+:-)?([\w./-]+:[\w.-]+)", text, re.MULTILINE)
    return [image for image in dict.fromkeys(found) if image.partition(":")[0] in KINDS]


def make(script: str) -> None:
    """Runs the script, and adds what its images lack. Raises AssertionError."""
    with one_at_a_time():
        run(script, *(f"{image}={KINDS[image.partition(':')[0]]}" for image in images()), timeout_s=900)
        for image in images():
            lacks = LACKS.get(image.partition(":")[0])
            if lacks and LABEL not in run("docker", "image", "inspect", image, "--format", "{{.Config.Labels}}"):
                complete(image, lacks)


def complete(image: str, lacks: str) -> None:
    subprocess.run(
        ["docker", "build", "-q", "-t", image, "-"],
        input=f"FROM {image}\nLABEL {LABEL}=whole\nRUN {lacks}\n",
        env=os.environ | {"PATH": PATH, "DOCKER_BUILDKIT": "1"},
        text=True,
        check=True,
        stdout=subprocess.DEVNULL,
    )


if __name__ == "__main__":
    make(os.environ["RILL_STANDINS"])
