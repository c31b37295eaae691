"""A fake docker and docker-compose for PATH: containers are a list in the file FAKE_STATE, and nothing runs but what
`run` is given, with FAKE_MODELS as /models. Each command is appended to the list `said` in the state.

The state has has_v2 (whether `docker compose` exists), fate (the successive health of a new container), containers
({id, status, health, oneoff})."""

import json
import os
import pathlib
import subprocess
import sys
from typing import Any

file = pathlib.Path(os.environ["FAKE_STATE"])
state = json.loads(file.read_text())
program, *arguments = pathlib.Path(sys.argv[1]).name, *sys.argv[2:]
is_compose = program == "docker-compose" or arguments[:1] == ["compose"]
if program == "docker" and is_compose:
    if not state["has_v2"]:
        sys.exit("docker: 'compose' is not a docker command.")
    arguments = arguments[1:]
while is_compose and arguments[0] == "-f":
    arguments = arguments[2:]
command, *rest = arguments
containers = state["containers"]


def named(id: str) -> dict[str, Any]:
    found: dict[str, Any]
    [found] = [c for c in containers if c["id"] == id]
    return found


if command == "version":
    sys.exit()
elif is_compose and command == "ps":
    print(*(c["id"] for c in containers), sep="\n")
    sys.exit()
state["said"].append(" ".join([command, *rest][:6]))
status = 0
if is_compose and command == "up":
    wanted = int(rest[rest.index("--scale") + 1].removeprefix("service="))
    for _ in range(wanted - len([c for c in containers if c["oneoff"] == "False"])):
        state["n_made"] += 1
        fate = list(state["fate"])
        containers.append({"id": f"new{state['n_made']}", "status": "running", "health": fate, "oneoff": "False"})
elif is_compose and command == "run":
    at = rest.index("service") + 1
    arguments = [part.replace("/models", os.environ["FAKE_MODELS"]) for part in rest[at:]]
    status = subprocess.run(["sh", *arguments]).returncode
elif command == "inspect" and rest[1] == "{{.Name}}":
    state["said"].pop()
    print("/rill_" + named(rest[2])["id"])
elif command == "inspect":
    state["said"].pop()
    for container in map(named, rest[2:]):
        health = container["health"]
        if isinstance(health, list):
            health = health.pop(0) if len(health) > 1 else health[0]
        print(container["id"], container["status"], health, container["oneoff"])
elif command == "logs":
    print("rill: RILL_N_SEQ: no", file=sys.stderr)
elif command in ("stop", "rm"):
    container = named(rest[-1])
    container["status"] = "exited"
    if command == "rm":
        containers.remove(container)
else:
    sys.exit(f"fake docker: what is {sys.argv}?")
file.write_text(json.dumps(state))
sys.exit(status)
