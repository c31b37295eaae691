"""Every alert fires for its fault. The faults here are as Prometheus sees them; real ones: docs/alerts.md."""

from __future__ import annotations

import json
import re
import urllib.request
from collections.abc import Callable, Iterator

import pytest
import yaml  # type: ignore[import-untyped]  # its stubs are not among the locked packages

from tests.compose.stack import ROOT, Stack, docker, run, until
from tests.compose.test_files import ALERTS, COMPOSE
from tests.patience import PATIENCE_S
from tests.programs import find

TESTS = yaml.safe_load((ROOT / "tests" / "compose" / "alerts_test.yml").read_text())["tests"]
NAMES = [rule["alert"] for group in ALERTS["groups"] for rule in group["rules"]]

Promtool = Callable[..., str]


@pytest.fixture
def promtool(request: pytest.FixtureRequest) -> Promtool:
    """`promtool(argument, …)` in the repository's root: this machine's, or the one in compose's image."""
    if program := find("promtool"):
        return lambda *arguments: run(program, *arguments)
    request.getfixturevalue("stack")
    command = ("run", "--rm", "-v", f"{ROOT}:/rill:ro", "-w", "/rill", "--entrypoint", "promtool")
    return lambda *arguments: docker(*command, COMPOSE["services"]["prometheus"]["image"], *arguments)


@pytest.mark.e2e
def test_alerts_fire_in_their_faults_and_not_near_them(promtool: Promtool) -> None:
    """promtool evaluates the rules over the series of alerts_test.yml, second by second."""
    assert "SUCCESS" in promtool("test", "rules", "tests/compose/alerts_test.yml")


@pytest.mark.parametrize("name", NAMES)
def test_each_alert_has_a_test(name: str) -> None:
    """It fires in at least one of those tests, and docs/alerts.md says how to provoke it for real."""
    assert any(t["exp_alerts"] for test in TESTS for t in test["alert_rule_test"] if t["alertname"] == name)
    assert f"| `{name}` |" in (ROOT / "docs" / "alerts.md").read_text()


def test_the_silence_for_a_planned_scale_down_is_documented() -> None:
    """The silence lasts as long as the alert remembers the number of replicas."""
    [rule] = [rule for group in ALERTS["groups"] for rule in group["rules"] if rule["alert"] == "RillReplicasLost"]
    [hours] = re.findall(r"\[(\d+)h:1m\]", rule["expr"])
    assert f"a silence of {hours} hours" in rule["annotations"]["summary"]
    assert f"--duration={hours}h" in (ROOT / "docs" / "alerts.md").read_text()


SINK = """
import http.server
class Sink(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        print(self.rfile.read(int(self.headers["Content-Length"])).decode(), flush=True)
        self.send_response(200)
        self.end_headers()
http.server.HTTPServer(("0.0.0.0", 8000), Sink).serve_forever()
"""


@pytest.fixture
def alertmanager(stack: Stack) -> Iterator[Callable[[str], None]]:
    """`alertmanager(url)` starts it with that ALERT_WEBHOOK_URL, and waits until it accepts alerts."""

    def start(url: str) -> None:
        stack.env["ALERT_WEBHOOK_URL"] = url
        stack.compose("up", "-d", "--no-deps", "alertmanager")
        until(lambda: fetch(f"{stack.alertmanager}/-/ready") is not None)

    yield start
    stack.compose("rm", "-s", "-f", "alertmanager")
    del stack.env["ALERT_WEBHOOK_URL"]


def fetch(url: str, body: object = None) -> bytes | None:
    """The response; None if there is none."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            got: bytes = response.read()
            return got
    except OSError:
        return None


@pytest.mark.e2e
def test_a_webhook_is_notified(stack: Stack, alertmanager: Callable[[str], None]) -> None:
    """ALERT_WEBHOOK_URL is the only setting needed, and no displayed configuration contains it."""
    sink = f"{stack.project}-sink"
    place = ("--network", f"{stack.project}_default", "--name", sink)
    docker("run", "-d", *place, "--entrypoint", "python", stack.env["RILL_IMAGE"], "-c", SINK)
    try:
        alertmanager(f"http://{sink}:8000/secret")
        assert fetch(f"{stack.alertmanager}/api/v2/alerts", [{"labels": {"alertname": "Tried"}}]) is not None
        until(lambda: '"alertname":"Tried"' in docker("logs", sink), within_s=PATIENCE_S)
        status = fetch(f"{stack.alertmanager}/api/v2/status")
        assert status is not None and b"secret" not in status
    finally:
        docker("rm", "-f", sink)


@pytest.mark.e2e
def test_without_a_receiver_alerts_are_shown(stack: Stack, alertmanager: Callable[[str], None]) -> None:
    """They are on Alertmanager's own page; its configuration is valid and notifies no receiver."""
    alertmanager("")
    assert fetch(f"{stack.alertmanager}/api/v2/alerts", [{"labels": {"alertname": "Seen"}}]) is not None
    assert b"Seen" in (fetch(f"{stack.alertmanager}/api/v2/alerts") or b"")
    [container] = stack.containers("alertmanager")
    assert "SUCCESS" in docker("exec", container, "amtool", "check-config", "/tmp/alertmanager.yml")
    assert b"receiver: nobody" in (fetch(f"{stack.alertmanager}/api/v2/status") or b"")


@pytest.mark.e2e
def test_an_invalid_webhook_address_is_refused(stack: Stack) -> None:
    """Otherwise alerts would be lost silently."""
    with pytest.raises(AssertionError, match="ALERT_WEBHOOK_URL is not a URL"):
        stack.compose("run", "--rm", "--no-deps", "-T", "-e", "ALERT_WEBHOOK_URL=hooks.example/x", "alertmanager")


@pytest.mark.e2e
def test_prometheus_accepts_its_files(stack: Stack) -> None:
    """Configuration and alert rules have no errors and no warnings."""
    [prometheus] = stack.containers("prometheus")
    said = docker("exec", prometheus, "promtool", "check", "config", "/etc/prometheus/prometheus.yml")
    assert "rules found" in said
    assert "FAILED" not in said
