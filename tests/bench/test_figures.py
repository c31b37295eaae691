"""Figures become medians, ratios, a table, a plot and JSON without loss."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.bench import plot, servers
from tests.bench.figures import ENGINE, PEER, RILL, Figures, load, spread


@pytest.fixture
def figures() -> Figures:
    """Two rounds of both servers, and a row that only Rill has."""
    figures = Figures({"machine": "a <machine> & two cores", "model": "m.gguf", "command": "make bench"})
    for rill, peer in ((100.0, 50.0), (110.0, 50.0)):
        figures.enter(RILL, {"tok/s, 1 stream": rill, "TTFT p50, s": 1.0, "of 48 readers": 48.0})
        figures.enter(ENGINE, {"tok/s, 1 stream": 120.0})
        figures.enter(
            PEER, {"tok/s, 1 stream": peer, "TTFT p50, s": 4.0}, {"tok/s, 1 stream": 40.0, "TTFT p50, s": 2.0}
        )
    return figures


def test_the_better_configuration_counts(figures: Figures) -> None:
    """A server measured in two configurations has in each row the better value: more tokens, less waiting."""
    assert figures.rows["tok/s, 1 stream"].rounds[PEER] == [50.0, 50.0]
    assert figures.rows["TTFT p50, s"].rounds[PEER] == [2.0, 2.0]


def test_the_ratio_is_times_better(figures: Figures) -> None:
    """Twice the tokens and half the wait are both two times better."""
    assert figures.rows["tok/s, 1 stream"].ratios == pytest.approx([2.0, 2.2])
    assert figures.rows["TTFT p50, s"].ratios == [2.0, 2.0]
    assert figures.rows["of 48 readers"].ratios == []


def test_the_table(figures: Figures) -> None:
    """Machine, model and command precede it; a row has medians with minimum and maximum."""
    head, table = figures.table().split("\n\n")
    assert head.split("  \n")[1:] == ["model: m.gguf", "command: make bench  "]
    assert table.splitlines()[2:] == [
        "| tok/s, 1 stream | 105 (100-110) | 50 (50-50) | 2.1 (2-2.2) | 120 (120-120) |",
        "| TTFT p50, s | 1 (1-1) | 2 (2-2) | 2 (2-2) |  |",
        "| of 48 readers | 48 (48-48) |  |  |  |",
    ]


def test_three_digits() -> None:
    """A value is shown with the precision of the measurement, whatever its size."""
    assert [spread([x]) for x in (1234.5, 99.94, 1.2345, 0.01234)] == ["1234", "99.9", "1.23", "0.0123"]
    assert spread([]) == ""


def test_saved_and_loaded(figures: Figures) -> None:
    """Figures loaded from a file equal those that were saved."""
    assert load(json.loads(json.dumps(figures.json()))) == figures


def test_the_plot(figures: Figures) -> None:
    """It is well-formed, each row has a bar for every server with a value, the longer one in full length; it has
    colours for light and dark mode, and fetches nothing."""
    drawn = plot.svg(figures)
    root = ElementTree.fromstring(drawn)
    bars = {name: root.findall(f"{{*}}rect[@class='{name}']")[1:] for name in ("rill", "peer")}  # without the legend's
    lengths = {name: [float(bar.attrib["width"]) for bar in found] for name, found in bars.items()}
    assert lengths["rill"] == pytest.approx([plot.LONGEST, plot.LONGEST / 2, plot.LONGEST])
    assert lengths["peer"] == pytest.approx([plot.LONGEST * 50 / 105, plot.LONGEST], abs=0.1)
    words = [element.text or "" for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"TTFT p50, s ↓", "105 (2.1×)", "machine: a <machine> & two cores"} <= set(words)
    assert "prefers-color-scheme: dark" in drawn
    assert drawn.count("http") == 1  # SVG's namespace


def test_parsing_batched_bench_output() -> None:
    """Its JSON lines, among other lines, become mean seconds by number of streams."""
    lines = [b"note", *(b'{"n_kv_max": 1, "pl": %d, "t": %d}' % pair for pair in ((1, 1), (1, 2), (8, 4)))]
    assert servers.seconds(b"\n".join(lines)) == {1: 1.5, 8: 4.0}


async def test_a_last_line_may_be_missing(tmp_path: Path) -> None:
    """llama-batched-bench sometimes exits before writing its last line: it gets one run more than is needed."""
    program = tmp_path / "llama-batched-bench"
    program.write_text(
        "#!/bin/sh\n"
        'while [ "$1" != -npl ]; do shift; done\n'
        'for n in $(echo "${2%,*}" | tr , " "); do echo "{\\"n_kv_max\\": 1, \\"pl\\": $n, \\"t\\": $n}"; done\n'
    )
    program.chmod(0o755)
    assert await servers.bare_engine(tmp_path, Path("m.gguf"), 64, 64, {1: 2, 8: 1}, "1000") == {1: 1.0, 8: 8.0}
    program.write_text("#!/bin/sh\necho no such model >&2\n")
    with pytest.raises(servers.NotStarted, match="no such model"):
        await servers.bare_engine(tmp_path, Path("m.gguf"), 64, 64, {1: 2, 8: 1}, "1000")


def test_the_openmp_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process's OpenMP variables are not passed on; a number becomes GOMP_SPINCOUNT."""
    monkeypatch.setenv("GOMP_SPINCOUNT", "5")
    monkeypatch.setenv("OMP_WAIT_POLICY", "passive")
    assert not {name for name in servers.environment(servers.DEFAULT) if "OMP" in name}
    assert servers.environment("1000")["GOMP_SPINCOUNT"] == "1000"
