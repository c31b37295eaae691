"""A directory with a docker and a docker-compose that are fake_docker.py, and the programs of deploy/ run with them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
FAKE = Path(__file__).parent / "fake_docker.py"


@dataclass
class FakeDocker:
    """home: an empty directory. See fake_docker.py for the contents of the state."""

    home: Path

    def __post_init__(self) -> None:
        (self.home / "models").mkdir()
        for name in ("docker", "docker-compose"):
            program = self.home / name
            program.write_text(f'#!/bin/sh\nexec {sys.executable} {FAKE} "$0" "$@"\n')
            program.chmod(0o755)
        self.state = {"has_v2": True, "fate": ["healthy"], "containers": [], "said": [], "n_made": 0}

    @property
    def state(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.home / "state").read_text())
        return found

    @state.setter
    def state(self, value: dict[str, Any]) -> None:
        (self.home / "state").write_text(json.dumps(value))

    def has(self, *ids: str, status: str = "running", oneoff: str = "False") -> None:
        """Adds these containers to the state."""
        more = [{"id": id, "status": status, "health": "healthy", "oneoff": oneoff} for id in ids]
        self.state = self.state | {"containers": self.state["containers"] + more}

    @property
    def ids(self) -> list[str]:
        return [container["id"] for container in self.state["containers"]]

    def run(self, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        fakes = {"FAKE_STATE": str(self.home / "state"), "FAKE_MODELS": str(self.home / "models")}
        path = f"{self.home}:{os.environ['PATH']}"
        command = [str(ROOT / "deploy" / program), *arguments]
        return subprocess.run(command, env=os.environ | fakes | {"PATH": path}, capture_output=True, text=True)
