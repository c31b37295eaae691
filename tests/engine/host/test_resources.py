"""The machine's resources, read from the test's own root directory."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from service.engine.host import resources as budget
from service.engine.host.resources import (
    KV_BITS,
    BudgetError,
    Pool,
    choose_n_ctx,
    free_memory,
    kv_bytes_per_token,
    usable_cores,
)
from service.engine.llama import model as llama
from service.engine.llama.constants import KV_TYPES
from service.engine.llama.journal import Journal
from service.engine.llama.model import LlamaError, Model
from tests.engine.conftest import MakeContext


def machine(root: Path, cores: dict[int, tuple[int, int]], **files: str) -> Path:
    """A root directory with {cpu: (package, core)} and some files of /proc and /sys/fs/cgroup."""
    for cpu, (package, core) in cores.items():
        topology = root / f"sys/devices/system/cpu/cpu{cpu}/topology"
        topology.mkdir(parents=True)
        (topology / "physical_package_id").write_text(f"{package}\n")
        (topology / "core_id").write_text(f"{core}\n")
    places = {"meminfo": "proc/meminfo"} | {
        n: f"sys/fs/cgroup/{n.replace('_', '.')}" for n in ("cpu_max", "memory_max", "memory_current", "memory_stat")
    }
    for name, text in files.items():
        path = root / places[name]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.fixture
def affinity(monkeypatch: pytest.MonkeyPatch) -> Callable[[set[int]], None]:
    """Sets the CPUs that this process may use."""
    return lambda cpus: monkeypatch.setattr(os, "sched_getaffinity", lambda _: cpus)


SMT = {0: (0, 0), 1: (0, 1), 2: (0, 0), 3: (0, 1)}  # two cores of two threads
SOCKETS = {0: (0, 0), 1: (0, 1), 2: (1, 0), 3: (1, 1)}  # both packages use the same core numbers


@pytest.mark.parametrize(
    ("cores", "cpus", "quota", "expected"),
    [
        (SMT, {0, 1, 2, 3}, None, 2),
        (SMT, {0, 2}, None, 1),
        (SMT, {0, 1}, None, 2),
        (SOCKETS, {0, 1, 2, 3}, None, 4),
        ({}, {0, 1, 5}, None, 3),  # no topology available: each CPU counts
        (SOCKETS, {0, 1, 2, 3}, "max 100000\n", 4),
        (SOCKETS, {0, 1, 2, 3}, "200000 100000\n", 2),
        (SOCKETS, {0, 1, 2, 3}, "150000 100000\n", 2),
        (SOCKETS, {0, 1, 2, 3}, "20000 100000\n", 1),  # less than one core is still one thread
        (SOCKETS, {0, 1}, "800000 100000\n", 2),  # a quota wider than what the affinity allows
        (SOCKETS, {0, 1, 2, 3}, "garbage", 4),
        (SOCKETS, {0, 1, 2, 3}, "200000 0\n", 4),
        (SOCKETS, {0, 1, 2, 3}, "200000 max\n", 4),
        (SOCKETS, {0, 1, 2, 3}, "", 4),
    ],
)
def test_usable_cores(
    tmp_path: Path,
    affinity: Callable[[set[int]], None],
    cores: dict[int, tuple[int, int]],
    cpus: set[int],
    quota: str | None,
    expected: int,
) -> None:
    """One thread per physical core that the affinity and the container's quota allow."""
    affinity(cpus)
    assert usable_cores(machine(tmp_path, cores, **({} if quota is None else {"cpu_max": quota}))) == expected


def test_this_machine_has_a_core() -> None:
    """The real machine has at least one core and no more than the affinity's CPUs."""
    assert 1 <= usable_cores() <= len(os.sched_getaffinity(0))
    assert free_memory() > 0


MEMINFO = "MemTotal:       8000 kB\nMemFree:         100 kB\nMemAvailable:   4000 kB\n"


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"meminfo": MEMINFO}, 4000 * 1024),
        ({"meminfo": MEMINFO, "memory_max": "max\n", "memory_current": "9\n"}, 4000 * 1024),
        ({"meminfo": MEMINFO, "memory_max": "1000000\n", "memory_current": "400000\n"}, 600_000),
        ({"meminfo": MEMINFO, "memory_max": "99000000\n", "memory_current": "0\n"}, 4000 * 1024),
        (  # file pages are reclaimable, except those that are mapped
            {
                "meminfo": MEMINFO,
                "memory_max": "1000000\n",
                "memory_current": "900000\n",
                "memory_stat": "anon 5\ninactive_file 300000\nactive_file 200000\nfile_mapped 100000\n"
                "slab_reclaimable 7\n",
            },
            500_007,
        ),
        ({"meminfo": MEMINFO, "memory_max": "1000000\n"}, 4000 * 1024),
        ({}, 1 << 62),
        ({"meminfo": "MemTotal: 5 kB\n"}, 1 << 62),
    ],
)
def test_free_memory(tmp_path: Path, files: dict[str, str], expected: int) -> None:
    """The kernel's available memory, within the container's limit; an unknown limit is none."""
    assert free_memory(machine(tmp_path, {}, **files)) == expected


@pytest.mark.parametrize("kv_type", KV_TYPES)
@pytest.mark.parametrize("n_head_kv", [1, 2, 4])
def test_kv_bytes_are_llama_cpps(
    write: Callable[..., Path], make_context: MakeContext, n_head_kv: int, kv_type: str
) -> None:
    """The bytes computed from the metadata are those that llama.cpp allocates, with grouped heads and every KV type."""
    journal = Journal()
    before = llama._log
    llama.start(journal)
    try:
        model = Model(write(f"kv{n_head_kv}", n_head_kv=n_head_kv, n_layers=3))
        context = make_context(model, n_ctx=2048, kv_type=kv_type, flash_attention="on")
        assert kv_bytes_per_token(model.meta, kv_type) * context.n_ctx == pytest.approx(
            journal.kv_bytes, abs=0.01 * 2**20
        )
    finally:
        llama.start(before)


def test_kv_bits_know_every_type() -> None:
    """Each possible KV type has a known size, so that none goes unchecked."""
    assert KV_BITS.keys() == KV_TYPES.keys()


@pytest.mark.parametrize(
    ("meta", "expected"),
    [
        ({}, 0),
        ({"general.architecture": "x"}, 0),
        (
            {
                "general.architecture": "x",
                "x.block_count": "2",
                "x.embedding_length": "64",
                "x.attention.head_count": "4",
            },
            2 * 4 * (16 + 16) * 2,  # no head_count_kv: every head has its own
        ),
        (
            {
                "general.architecture": "x",
                "x.block_count": "2",
                "x.embedding_length": "64",
                "x.attention.head_count": "4",
                "x.attention.head_count_kv": "1",
                "x.attention.key_length": "32",
                "x.attention.value_length": "8",
            },
            2 * 1 * (32 + 8) * 2,
        ),
        (
            {
                "general.architecture": "x",
                "x.block_count": "2",
                "x.embedding_length": "64",
                "x.attention.head_count": "4",
                "x.attention.head_count_kv": "[1, 2]",
            },
            2 * 4 * (16 + 16) * 2,  # a list of numbers, one per layer: the upper bound
        ),
    ],
)
def test_kv_bytes_from_metadata(meta: dict[str, str], expected: int) -> None:
    """Per layer: KV heads times key and value length, each with the default of ggml's gguf.md; 0 without metadata."""
    assert kv_bytes_per_token(meta.get, "f16") == expected


def choose(asked: int | None, free: int, *, default: int = 4096, per_token: float = 100) -> int:
    return choose_n_ctx(asked, default=default, pools=[Pool(per_token, free)])


@pytest.mark.parametrize(
    ("asked", "free", "options", "expected"),
    [
        (None, 10**9, {}, 4096),
        (None, 100_000, {}, 768),  # what fits, in blocks of 256
        (None, 51_200, {}, 512),
        (5000, 500_000, {}, 5000),  # fits to the byte
        (300, 30_000, {}, 300),
        (10**6, 10**9, {}, 10**6),  # an operator may ask for more than the default
        (10**9, 1, {"per_token": 0}, 10**9),  # nothing known of the model: nothing to check
        (None, 0, {"per_token": 0}, 4096),
    ],
)
def test_choose_n_ctx(asked: int | None, free: int, options: dict[str, int], expected: int) -> None:
    """The requested size is used or refused; otherwise as much of the default as fits."""
    assert choose(asked, free, **options) == expected


def test_the_cache_must_fit_into_every_memory() -> None:
    """Of a cache split between a card and the machine, the memory with the least room decides, and is named."""
    card, machine = Pool(75, 75 * 3000, " on a card"), Pool(25, 25 * 2000)
    assert choose_n_ctx(None, default=4096, pools=[card]) == 2816
    assert choose_n_ctx(None, default=4096, pools=[card, machine]) == 1792
    with pytest.raises(BudgetError, match=r"MiB are free on a card; 3000 tokens would fit"):
        choose_n_ctx(9000, default=4096, pools=[Pool(0, 0), card])


@pytest.mark.parametrize(("asked", "free", "fits"), [(5000, 499_999, 4999), (None, 51_199, 511), (1, -5, 0), (9, 0, 0)])
def test_a_budget_that_is_exceeded(asked: int | None, free: int, fits: int) -> None:
    """The error has the needed and the free memory, the size that would fit, and the setting."""
    with pytest.raises(BudgetError, match=rf"; {fits} tokens would fit \(RILL_N_CTX\)"):
        choose(asked, free)


def test_the_error_counts_in_mib() -> None:
    """The figures are readable."""
    with pytest.raises(BudgetError, match=r"a KV cache of 3145728 tokens needs 300 MiB and 200 MiB are free"):
        choose(3 * 2**20, 200 * 2**20)


def test_a_context_that_llama_cpp_refuses(bpe: Model, make_context: MakeContext) -> None:
    """A combination that llama.cpp does not support is a LlamaError, not a crash."""
    with pytest.raises(LlamaError, match="q8_0"):
        make_context(bpe, kv_type="q8_0", flash_attention="off")


def test_reading_a_directory_as_a_file(tmp_path: Path) -> None:
    """A directory in place of a file is read as empty."""
    assert budget._read(tmp_path) == ""
