"""The files of the deployment agree with each other and with the service. This needs no container."""

import json
import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]  # its stubs are not among the locked packages

from service.api.server import CLOSE_S
from service.app import LAST_WORDS_S
from service.metrics.metrics import Metrics
from service.replication.handover import HAND_OVER_S
from service.settings import Settings
from tests.compose import standins

ROOT = Path(__file__).parents[2]
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
GPU = yaml.safe_load((ROOT / "deploy" / "compose.gpu.yml").read_text())
DASHBOARD = json.loads((ROOT / "deploy" / "grafana" / "dashboards" / "rill.json").read_text())
ALERTS = yaml.safe_load((ROOT / "deploy" / "prometheus" / "alerts.yml").read_text())


DOCKERFILES = ("Dockerfile", "Dockerfile.loadtest")


def stages(name: str) -> dict[str, list[str]]:
    """A Dockerfile's instructions by stage, continued lines joined."""
    text = re.sub(r"^#.*\n", "", (ROOT / "deploy" / name).read_text(), flags=re.M).replace("\\\n", "")
    found: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in text.splitlines():
        if line.startswith("FROM "):
            lines = found.setdefault(line.split(" AS ")[1], [])
        if line:
            lines.append(re.sub(r" +", " ", line))
    return found


def queries(node: Any) -> Iterator[str]:
    """Every PromQL expression below a node of the dashboard or the alerts."""
    if isinstance(node, dict):
        if isinstance(node.get("expr"), str):
            yield node["expr"]
        for value in node.values():
            yield from queries(value)
    elif isinstance(node, list):
        for value in node:
            yield from queries(value)


def test_compose_passes_every_setting() -> None:
    """Each setting of the service can be set in docker-compose's environment, except host and port, which the image
    sets."""
    passed = {line.partition("=")[0] for line in COMPOSE["services"]["service"]["environment"]}
    assert passed - {"HF_TOKEN"} == {f"RILL_{n.upper()}" for n in Settings.model_fields if n not in ("host", "port")}


def test_the_stop_grace_exceeds_the_drain() -> None:
    """compose kills only after the service's own times: notice, drain, handover, and the readers' last events."""
    grace = COMPOSE["services"]["service"]["stop_grace_period"]
    seconds = re.fullmatch(r"\$\{RILL_STOP_GRACE:-(\d+)s\}", grace)
    assert seconds is not None
    rest = HAND_OVER_S + LAST_WORDS_S + 2 * CLOSE_S
    assert int(seconds[1]) > notice_s() + Settings.model_fields["drain_s"].default + rest


def test_nginx_learns_of_a_drain_before_requests_are_refused() -> None:
    """It polls every second, and a replica that does not answer delays it by up to two: the notice is no shorter."""
    assert notice_s() >= 3


def test_wrong_settings_are_unhealthy_not_starting() -> None:
    """The health check's result counts at once (there is no start period), and the container stays up long enough for
    it: in a restart loop it would be `starting` for ever."""
    service = COMPOSE["services"]["service"]
    health = service["healthcheck"]
    assert "start_period" not in health
    assert service["command"][0] == "--stay-s"
    said_within_s = (health["retries"] + 1) * int(health["interval"].removesuffix("s"))
    assert int(service["command"][1]) > 3 * said_within_s
    assert (ROOT / health["test"][-1]).exists()
    assert COMPOSE["services"]["nginx"]["depends_on"]["service"] == {"condition": "service_healthy"}


def notice_s() -> float:
    """The default of RILL_DRAIN_NOTICE_S."""
    [line] = [v for v in COMPOSE["services"]["service"]["environment"] if v.startswith("RILL_DRAIN_NOTICE_S=")]
    default = re.fullmatch(r"\S+\$\{RILL_DRAIN_NOTICE_S:-([\d.]+)\}", line)
    assert default is not None
    return float(default[1])


def test_nginx_and_the_service_have_one_body_limit() -> None:
    """nginx neither refuses a body that the service would accept nor reads one that it would not."""
    assert "client_max_body_size 1m;" in (ROOT / "nginx" / "nginx.conf").read_text()
    assert Settings.model_fields["max_body_bytes"].default == 1024 * 1024


def test_only_nginx_is_published_to_the_network() -> None:
    """Observation and load testing are published to this machine only; no name or port prevents scaling."""
    ports = {name: service.get("ports", []) for name, service in COMPOSE["services"].items()}
    assert ports["nginx"] == ["${RILL_PUBLISH:-8080}:8080"]
    assert ports["service"] == []
    private = ("prometheus", "alertmanager", "grafana", "loadtest")
    assert all(ports[name] and ":-127.0.0.1:" in p for name in private for p in ports[name])
    assert not [name for name, service in COMPOSE["services"].items() if "container_name" in service]


@pytest.mark.parametrize("name", COMPOSE["services"])
def test_containers_are_restricted(name: str) -> None:
    """They are read-only, without capabilities or new privileges, under an init."""
    service = COMPOSE["services"][name]
    assert service["read_only"] is True
    assert service["init"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]


def test_no_container_runs_as_root() -> None:
    """Each container has its own user, set here for images of other projects; Redis' entry point changes to one after
    it has changed the owner of its volume."""
    users = {name: service.get("user") for name, service in COMPOSE["services"].items()}
    assert {name for name, user in users.items() if user is None} == {"service", "loadtest", "redis"}
    assert not [user for user in users.values() if user and user.split(":")[0] in ("0", "root")]


def test_foreign_images_are_pinned() -> None:
    """Images pulled later are the tested ones: a version, or a line that gets only fixes; never `latest`."""
    images = {service["image"] for service in COMPOSE["services"].values() if "build" not in service}
    tags = {name: tag for name, _, tag in (image.rpartition(":") for image in images)}
    assert (tags.pop("nginx"), tags.pop("redis")) == ("stable", "8")
    assert set(tags) == {"prom/prometheus", "prom/alertmanager", "grafana/grafana"}
    assert all(re.fullmatch(r"v?\d+\.\d+\.\d+", tag) for tag in tags.values())


def test_stand_ins_have_the_tags_that_compose_names() -> None:
    """Without a registry everything but Grafana can be tested."""
    named = {service["image"] for service in COMPOSE["services"].values() if "build" not in service}
    assert set(standins.images()) == named - {COMPOSE["services"]["grafana"]["image"]} | {"python:3.13-slim"}


def test_observation_and_load_are_profiles() -> None:
    """The observation services start only under the profile `observe`, Locust only under `loadtest`."""
    profiles = {name: service.get("profiles") for name, service in COMPOSE["services"].items()}
    assert profiles == {
        "nginx": None,
        "service": None,
        "redis": None,
        "prometheus": ["observe"],
        "alertmanager": ["observe"],
        "grafana": ["observe"],
        "loadtest": ["loadtest"],
    }


def test_only_replicas_reach_redis() -> None:
    """Redis writes each change to disk, never evicts, and is in a network with the replicas alone."""
    services = COMPOSE["services"]
    assert "--appendonly yes" in services["redis"]["command"]
    assert "--maxmemory-policy noeviction" in services["redis"]["command"]
    assert services["redis"]["volumes"] == ["redis:/data"]
    assert {name for name, service in services.items() if "log" in service.get("networks", [])} == {"redis", "service"}
    assert services["redis"]["networks"] == ["log"]
    assert COMPOSE["networks"]["log"]["internal"] is True
    assert "ports" not in services["redis"]


def test_mounted_files_exist() -> None:
    """Every path that compose mounts from the repository exists: Docker would make an empty directory of a missing
    one."""
    mounts = [v for service in COMPOSE["services"].values() for v in service.get("volumes", []) if v.startswith("./")]
    assert mounts
    assert [m for m in mounts if not (ROOT / m.split(":")[0]).exists()] == []


def test_the_gpu_override() -> None:
    """It builds the CUDA image under its own tag and reserves one NVIDIA GPU."""
    service = GPU["services"]["service"]
    assert service["build"] == {"args": {"CUDA": "12.8.1"}}
    assert service["image"] != COMPOSE["services"]["service"]["image"]
    [device] = service["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}


def bases(cuda: str) -> list[str]:
    """The images that the service's Dockerfile begins its stages with. Its substitutions are those of sh."""
    text = (ROOT / "deploy" / "Dockerfile").read_text()
    args, froms = (re.findall(rf"^{word} ([^ \n]+)", text, re.M) for word in ("ARG", "FROM"))
    script = "\n".join([*(arg for arg in args if "=" in arg), *(f"echo {name}" for name in froms)])
    done = subprocess.run(["sh", "-euc", script], env={"CUDA": cuda}, capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_only_the_cuda_image_needs_cuda() -> None:
    """Without the argument both stages begin with Python's image, with it with NVIDIA's of that CUDA; and no Dockerfile
    has a stage of another image: without BuildKit all are built that stand before the target."""
    assert bases("") == ["python:3.13-slim"] * 2
    assert bases("12.8.1") == [f"nvidia/cuda:12.8.1-{kind}-ubuntu24.04" for kind in ("devel", "runtime")]
    assert [list(stages(name)) for name in DOCKERFILES] == [["build", "run"], ["loadtest"]]


def test_the_cuda_image_is_built_for_cuda() -> None:
    """Each stage knows the argument, which becomes the installer's CUDA=1 and is empty without it.
    (The CUDA image can't be built where its base can't be fetched: this checks what can be checked.)"""
    build, run = stages("Dockerfile").values()
    assert build[1] == run[1] == "ARG CUDA"
    [environment] = [line for line in build if line.startswith("ENV ")]
    assert "CUDA=${CUDA:+1}" in environment.split()


@pytest.mark.parametrize("card", ["75", "80", "89", "90", "100", "120"])  # T4, A100, L4, H100, B200, RTX 50
def test_the_cuda_image_has_code_for(card: str) -> None:
    """Widely used cards have machine code in the image: none is compiled at start."""
    [cards] = re.findall(r"\$\{CUDA:\+-DCMAKE_CUDA_ARCHITECTURES=([^\" ]*)\}", " ".join(stages("Dockerfile")["build"]))
    assert {f"{card}-real", card} & set(cards.split(";"))


def test_images_run_without_root() -> None:
    """Images end as their own user, the service's with SIGTERM as stop signal, and no build stage comes after them."""
    for name, stage, user in zip(DOCKERFILES, ("run", "loadtest"), ("rill", "loadtest"), strict=True):
        lines = stages(name)[stage]
        assert f"USER {user}" in lines
        assert not [line for line in lines if "g++" in line]
        assert "STOPSIGNAL SIGTERM" in lines or stage == "loadtest"


def test_the_build_context_is_exactly_what_is_copied() -> None:
    """All that the Dockerfiles copy from the context exists and passes .dockerignore, and nothing else does."""
    lines = [line for name in DOCKERFILES for stage in stages(name).values() for line in stage]
    copies = [line.split() for line in lines if re.match(r"COPY (?!--from)", line)]
    copied = {source for _, *sources, _ in copies for source in sources}
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert {path for path in copied if not path.startswith("service/")} == allowed
    assert [path for path in copied if not (ROOT / path).exists()] == []


def test_dashboard_and_alerts_query_existing_series() -> None:
    """Every series that the dashboard and the alerts name is exported by the service."""
    text = Metrics(version="0").text().decode()
    series = {line.split("{")[0].split(" ")[0] for line in text.splitlines() if not line.startswith("#")}
    families = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")}
    asked = {
        name for query in [*queries(DASHBOARD), *queries(ALERTS)] for name in re.findall(r"\b(?:llm|gen_ai)_\w+", query)
    }
    assert len(asked) > 15
    histograms = {f"{family}{end}" for family in families for end in ("_bucket", "_sum", "_count")}
    assert asked - series - families - histograms == set()


def sources(name: str) -> list[dict[str, Any]]:
    """The data sources in a provisioning file of Grafana's."""
    text = (ROOT / "deploy" / "grafana" / "datasources" / f"{name}.yml").read_text()
    found: list[dict[str, Any]] = yaml.safe_load(text)["datasources"]
    return found


def test_alerts_are_visible_without_a_receiver() -> None:
    """Prometheus sends alerts to Alertmanager, whose page is published, and Grafana shows them."""
    prometheus = yaml.safe_load((ROOT / "deploy" / "prometheus" / "prometheus.yml").read_text())
    [manager] = prometheus["alerting"]["alertmanagers"]
    assert manager["static_configs"] == [{"targets": ["alertmanager:9093"]}]
    [source] = sources("alertmanager")
    assert (source["type"], source["url"]) == ("alertmanager", "http://alertmanager:9093")
    assert COMPOSE["services"]["alertmanager"]["ports"] == ["${ALERTMANAGER_PUBLISH:-127.0.0.1:9093}:9093"]


def test_the_dashboard_is_complete() -> None:
    """Every panel has a title, a description, queries and its own place, and uses the provisioned data source."""
    [prometheus] = sources("prometheus")
    panels = DASHBOARD["panels"]
    assert len({p["id"] for p in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        assert panel["title"]
        assert panel["description"]
        assert panel["targets"]
        assert {t["datasource"]["uid"] for t in panel["targets"]} == {prometheus["uid"]}
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert place["x"] + place["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells


def test_lock_files_agree_on_the_engine() -> None:
    """The engine's own lock file, which decides whether an image compiles it again, agrees with the others."""
    lock = ROOT / "deploy" / "lock"
    assert (lock / "engine.txt").read_text().startswith("llama-cpp-python==")
    assert (lock / "engine.txt").read_text() in (lock / "run.txt").read_text()


@pytest.mark.parametrize("name", ["run", "dev", "loadtest"])
def test_unused_packages_are_not_locked(name: str) -> None:
    """diskcache (CVE-2025-69872) came with llama-cpp-python, which is built without it."""
    assert "diskcache" not in (ROOT / "deploy" / "lock" / f"{name}.txt").read_text()


def test_uv_metadata_is_for_the_locked_engine() -> None:
    """The requirements that `make lock` uses for llama-cpp-python are stated for the locked version."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    [engine] = project["tool"]["uv"]["dependency-metadata"]
    assert f"{engine['name']}=={engine['version']}" in project["project"]["dependencies"]
