"""The files that describe the deployment agree with each other and with the service. This needs no container."""

import json
import re
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


DOCKERFILES = ("Dockerfile", "Dockerfile.cuda", "Dockerfile.loadtest")


def stages(name: str) -> dict[str, list[str]]:
    """A Dockerfile's instructions, stage by stage, continued lines joined."""
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
    """Each setting of the service can be set in the environment of docker-compose; host and port are the image's."""
    passed = {line.partition("=")[0] for line in COMPOSE["services"]["service"]["environment"]}
    assert passed - {"HF_TOKEN"} == {f"RILL_{n.upper()}" for n in Settings.model_fields if n not in ("host", "port")}


def test_the_grace_is_more_than_the_drain() -> None:
    """compose kills only after the service's own times are over: the notice, the drain, a hand-over, and the readers'
    last words."""
    grace = COMPOSE["services"]["service"]["stop_grace_period"]
    seconds = re.fullmatch(r"\$\{RILL_STOP_GRACE:-(\d+)s\}", grace)
    assert seconds is not None
    rest = HAND_OVER_S + LAST_WORDS_S + 2 * CLOSE_S
    assert int(seconds[1]) > notice_s() + Settings.model_fields["drain_s"].default + rest


def test_nginx_hears_of_a_drain_before_requests_are_refused() -> None:
    """It asks every second, and a replica that does not answer holds it up for two: the notice is no shorter."""
    assert notice_s() >= 3


def test_wrong_settings_are_unhealthy_and_not_still_starting() -> None:
    """Nothing that the health check says is passed over (a start period would), and the container is there for as long
    as that takes: a loop of restarts would be `starting` for ever."""
    service = COMPOSE["services"]["service"]
    health = service["healthcheck"]
    assert "start_period" not in health
    assert service["command"][0] == "--stay-s"
    said_within_s = (health["retries"] + 1) * int(health["interval"].removesuffix("s"))
    assert int(service["command"][1]) > 3 * said_within_s
    assert (ROOT / health["test"][-1]).exists()
    assert COMPOSE["services"]["nginx"]["depends_on"]["service"] == {"condition": "service_healthy"}


def notice_s() -> float:
    """RILL_DRAIN_NOTICE_S, unless somebody sets it."""
    [line] = [v for v in COMPOSE["services"]["service"]["environment"] if v.startswith("RILL_DRAIN_NOTICE_S=")]
    default = re.fullmatch(r"\S+\$\{RILL_DRAIN_NOTICE_S:-([\d.]+)\}", line)
    assert default is not None
    return float(default[1])


def test_nginx_bounds_a_body_as_the_service_does() -> None:
    """nginx neither refuses a body that the service would take nor reads one that it would not."""
    assert "client_max_body_size 1m;" in (ROOT / "nginx" / "nginx.conf").read_text()
    assert Settings.model_fields["max_body_bytes"].default == 1024 * 1024


def test_only_nginx_is_for_everyone() -> None:
    """nginx alone is published to the network; who observes and who loads it to this machine; nothing is named or
    numbered so that it could not be scaled."""
    ports = {name: service.get("ports", []) for name, service in COMPOSE["services"].items()}
    assert ports["nginx"] == ["${RILL_PUBLISH:-8080}:8080"]
    assert ports["service"] == []
    private = ("prometheus", "alertmanager", "grafana", "loadtest")
    assert all(ports[name] and ":-127.0.0.1:" in p for name in private for p in ports[name])
    assert not [name for name, service in COMPOSE["services"].items() if "container_name" in service]


@pytest.mark.parametrize("name", COMPOSE["services"])
def test_containers_may_do_little(name: str) -> None:
    """Read-only, without capabilities or new privileges, under an init."""
    service = COMPOSE["services"][name]
    assert service["read_only"] is True
    assert service["init"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]


def test_nobody_is_root() -> None:
    """Each container has a user of its own, said here where the image is somebody else's; Redis' entry point, which has
    to give its volume away first, becomes one."""
    users = {name: service.get("user") for name, service in COMPOSE["services"].items()}
    assert {name for name, user in users.items() if user is None} == {"service", "loadtest", "redis"}
    assert not [user for user in users.values() if user and user.split(":")[0] in ("0", "root")]


def test_images_of_others_are_pinned() -> None:
    """What is pulled tomorrow is what was tried today: a version, or a line that gets repairs alone; never `latest`."""
    images = {service["image"] for service in COMPOSE["services"].values() if "build" not in service}
    tags = {name: tag for name, _, tag in (image.rpartition(":") for image in images)}
    assert (tags.pop("nginx"), tags.pop("redis")) == ("stable", "8")
    assert set(tags) == {"prom/prometheus", "prom/alertmanager", "grafana/grafana"}
    assert all(re.fullmatch(r"v?\d+\.\d+\.\d+", tag) for tag in tags.values())


def test_stand_ins_are_of_the_tags_that_compose_names() -> None:
    """Where no registry is in reach, everything but Grafana can be tried all the same."""
    named = {service["image"] for service in COMPOSE["services"].values() if "build" not in service}
    assert set(standins.images()) == named - {COMPOSE["services"]["grafana"]["image"]} | {"python:3.13-slim"}


def test_observation_and_load_are_profiles() -> None:
    """Who observes starts under the profile `observe` and only there, Locust under `loadtest`."""
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


def test_the_log_is_the_replicas_own() -> None:
    """Redis writes each change to disk, never evicts, and is in a network that only it and the replicas are in."""
    services = COMPOSE["services"]
    assert "--appendonly yes" in services["redis"]["command"]
    assert "--maxmemory-policy noeviction" in services["redis"]["command"]
    assert services["redis"]["volumes"] == ["redis:/data"]
    assert {name for name, service in services.items() if "log" in service.get("networks", [])} == {"redis", "service"}
    assert services["redis"]["networks"] == ["log"]
    assert COMPOSE["networks"]["log"]["internal"] is True
    assert "ports" not in services["redis"]


def test_mounted_files_exist() -> None:
    """Every path that compose mounts from here is here: Docker would make an empty directory of a missing one."""
    mounts = [v for service in COMPOSE["services"].values() for v in service.get("volumes", []) if v.startswith("./")]
    assert mounts
    assert [m for m in mounts if not (ROOT / m.split(":")[0]).exists()] == []


def test_the_gpu_override() -> None:
    """It builds the CUDA image under a tag of its own and reserves one NVIDIA GPU."""
    service = GPU["services"]["service"]
    assert service["build"] == {"dockerfile": "deploy/Dockerfile.cuda"}
    assert service["image"] != COMPOSE["services"]["service"]["image"]
    [device] = service["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}


def test_an_image_is_built_from_its_own_stages_alone() -> None:
    """No Dockerfile has a stage of another image: without BuildKit all are built that stand before the target."""
    assert {name: list(stages(name)) for name in DOCKERFILES} == {
        "Dockerfile": ["build", "cpu"],
        "Dockerfile.cuda": ["build", "cuda"],
        "Dockerfile.loadtest": ["loadtest"],
    }


# NVIDIA's base has no Python, and the image needs nothing else of Debian's.
PYTHON_ALONE = r"apt-get update -q && apt-get install -qy --no-install-recommends python3 && rm -rf \S+ \S+ && "


def test_the_cuda_image_is_the_cpu_image_but_for_cuda() -> None:
    """Both are built and run by the same instructions; base, packages, the CUDA switch and its cards differ, no more.
    (The CUDA image can't be built where there is no registry to fetch its base from: this holds what can be held.)"""
    cpu, cuda = stages("Dockerfile"), stages("Dockerfile.cuda")
    for ours, theirs in zip(cpu.values(), cuda.values(), strict=True):
        same = [re.sub(rf" CUDA=1| -DCMAKE_CUDA_ARCHITECTURES=[^\"]*|{PYTHON_ALONE}", "", line) for line in theirs]
        assert [line.replace(" python3 python3-venv", "") for line in same[1:]] == ours[1:]
    assert "-devel-" in cuda["build"][0]
    assert "-runtime-" in cuda["cuda"][0]
    assert "CUDA=1" in " ".join(cuda["build"])


@pytest.mark.parametrize("card", ["75", "80", "89", "90", "100", "120"])  # T4, A100, L4, H100, B200, RTX 50
def test_the_cuda_image_has_code_for(card: str) -> None:
    """What is in wide use as a card has machine code in the image: no start compiles it."""
    [cards] = re.findall(r"CMAKE_CUDA_ARCHITECTURES=([^\" ]*)", " ".join(stages("Dockerfile.cuda")["build"]))
    assert {f"{card}-real", card} & set(cards.split(";"))


def test_images_run_without_root() -> None:
    """Images end as a user of their own, the service's with SIGTERM to stop them, and no build stage behind them."""
    for name, stage, user in zip(DOCKERFILES, ("cpu", "cuda", "loadtest"), ("rill", "rill", "loadtest"), strict=True):
        lines = stages(name)[stage]
        assert f"USER {user}" in lines
        assert not [line for line in lines if "g++" in line]
        assert "STOPSIGNAL SIGTERM" in lines or stage == "loadtest"


def test_the_build_context_is_what_is_copied() -> None:
    """What the Dockerfiles copy from the context is there and passes .dockerignore, which lets nothing else in."""
    lines = [line for name in DOCKERFILES for stage in stages(name).values() for line in stage]
    copies = [line.split() for line in lines if re.match(r"COPY (?!--from)", line)]
    copied = {source for _, *sources, _ in copies for source in sources}
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert {path for path in copied if not path.startswith("service/")} == allowed
    assert [path for path in copied if not (ROOT / path).exists()] == []


def test_dashboard_and_alerts_ask_for_series_that_exist() -> None:
    """Every series that the dashboard and the alerts name is one that the service exports."""
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
    """The data sources that a file of Grafana's provisions."""
    text = (ROOT / "deploy" / "grafana" / "datasources" / f"{name}.yml").read_text()
    found: list[dict[str, Any]] = yaml.safe_load(text)["datasources"]
    return found


def test_alerts_are_seen_without_a_receiver() -> None:
    """Prometheus hands alerts to Alertmanager, whose page is published, and Grafana shows what it has."""
    prometheus = yaml.safe_load((ROOT / "deploy" / "prometheus" / "prometheus.yml").read_text())
    [manager] = prometheus["alerting"]["alertmanagers"]
    assert manager["static_configs"] == [{"targets": ["alertmanager:9093"]}]
    [source] = sources("alertmanager")
    assert (source["type"], source["url"]) == ("alertmanager", "http://alertmanager:9093")
    assert COMPOSE["services"]["alertmanager"]["ports"] == ["${ALERTMANAGER_PUBLISH:-127.0.0.1:9093}:9093"]


def test_the_dashboard_is_whole() -> None:
    """Every panel has a title, a description, queries and a place of its own, and asks the provisioned data source."""
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


def test_the_engine_is_locked_once() -> None:
    """Its own lock file, which decides whether an image compiles it again, says what all of them say."""
    lock = ROOT / "deploy" / "lock"
    assert (lock / "engine.txt").read_text().startswith("llama-cpp-python==")
    assert (lock / "engine.txt").read_text() in (lock / "run.txt").read_text()


@pytest.mark.parametrize("name", ["run", "dev", "loadtest"])
def test_no_package_is_locked_that_nobody_uses(name: str) -> None:
    """diskcache (CVE-2025-69872) came with llama-cpp-python, which is built without it."""
    assert "diskcache" not in (ROOT / "deploy" / "lock" / f"{name}.txt").read_text()


def test_uv_locks_for_the_engine_that_is_built() -> None:
    """What `make lock` takes for llama-cpp-python's requirements is said for the version that is locked."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    [engine] = project["tool"]["uv"]["dependency-metadata"]
    assert f"{engine['name']}=={engine['version']}" in project["project"]["dependencies"]
