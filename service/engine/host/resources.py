"""What the machine offers: cores that may be used, memory that is free, and the KV cache that fits into it."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

# Bits a value takes in each type of KV cache, its block's scale included (ggml-common.h).
KV_BITS = {"f32": 32, "f16": 16, "bf16": 16, "q8_0": 8.5, "q5_1": 6, "q5_0": 5.5, "q4_1": 5, "q4_0": 4.5, "iq4_nl": 4.5}
DEFAULT_N_CTX = (
    16384  # in the machine's memory: 16 streams of 1,024 tokens; 2 GiB for an 8B model at f16, 200 MiB for a 0.5B one
)


class ConfigurationError(Exception):
    """The settings ask for what this machine can't provide, so retrying is useless; the message says what it can."""


class BudgetError(ConfigurationError):
    """The KV cache asked for does not fit into the memory that is free."""


@dataclass(frozen=True, slots=True)
class Pool:
    """Memory that a part of the KV cache is in: bytes for each of its tokens, bytes free."""

    bytes_per_token: float  # 0: not known
    n_bytes_free: float
    where: str = ""

    @property
    def n_tokens(self) -> float:
        """Tokens that fit."""
        return self.n_bytes_free / self.bytes_per_token if self.bytes_per_token else math.inf


def usable_cores(root: Path = Path("/")) -> int:
    """Physical cores that this process may use: its affinity, within the container's CPU quota.

    Two hyper-threads of one core would delay each other at every barrier.
    """
    allowed = os.sched_getaffinity(0)
    cores = {_core(root, cpu) for cpu in allowed}
    quota = _read(root / "sys/fs/cgroup/cpu.max").split()
    if len(quota) == 2 and all(n.isdigit() for n in quota) and (period := int(quota[1])):
        return max(1, min(len(cores), round(int(quota[0]) / period)))
    return max(1, len(cores))


def free_memory(root: Path = Path("/")) -> int:
    """Bytes still available: MemAvailable, within the container's limit."""
    for line in _read(root / "proc/meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            available = int(line.split()[1]) * 1024
            break
    else:
        return 1 << 62  # no /proc: nothing to check against
    limit = _read(root / "sys/fs/cgroup/memory.max").strip()
    used = _read(root / "sys/fs/cgroup/memory.current").strip()
    if limit.isdigit() and used.isdigit():
        available = min(available, int(limit) - int(used) + _reclaimable(root))
    return available


def _reclaimable(root: Path) -> int:
    """Bytes of the container that the kernel can reclaim: cached files, except mapped ones, as a model's weights are
    (memory.stat of cgroup v2)."""
    lines = (line.split() for line in _read(root / "sys/fs/cgroup/memory.stat").splitlines())
    stat = {words[0]: int(words[1]) for words in lines if len(words) == 2 and words[1].isdigit()}
    cached = stat.get("inactive_file", 0) + stat.get("active_file", 0) - stat.get("file_mapped", 0)
    return max(0, cached) + stat.get("slab_reclaimable", 0)


def kv_bytes_per_token(meta: Callable[[str], str | None], kv_type: str) -> int:
    """Upper bound of the KV cache's bytes for one token, from the GGUF's metadata; 0 when not stated there.

    Per layer n_head_kv x (key length + value length) values (gguf.md of ggml); sliding windows and states need less.
    """
    arch = meta("general.architecture") or ""

    def number(key: str, default: int = 0) -> int:
        text = meta(f"{arch}.{key}") or ""
        return int(text) if text.isdigit() else default

    n_head = number("attention.head_count")
    head = number("embedding_length") // n_head if n_head else 0
    key, value = number("attention.key_length", head), number("attention.value_length", head)
    values = number("block_count") * number("attention.head_count_kv", n_head) * (key + value)
    return int(values * KV_BITS[kv_type] / 8)


def choose_n_ctx(asked: int | None, *, default: int, pools: Iterable[Pool]) -> int:
    """The KV budget in tokens: what was asked for, or as much of the default as fits into every pool of memory.

    Raises BudgetError when the cache would take more than is free: the kernel would kill the process later instead,
    a GPU's driver would refuse without a number.
    """
    wanted = asked or default
    pool = min(pools, key=lambda p: p.n_tokens)
    if wanted <= pool.n_tokens:
        return wanted
    fits = int(pool.n_tokens)
    if asked is None and fits >= 512:  # less than a page of text is of no use
        return fits // 256 * 256
    raise BudgetError(
        f"a KV cache of {wanted} tokens needs {wanted * pool.bytes_per_token / 2**20:.0f} MiB and "
        f"{max(pool.n_bytes_free, 0) / 2**20:.0f} MiB are free{pool.where}; "
        f"{max(fits, 0)} tokens would fit (RILL_N_CTX)"
    )


def _core(root: Path, cpu: int) -> tuple[str, str]:
    topology = root / f"sys/devices/system/cpu/cpu{cpu}/topology"
    package, core = _read(topology / "physical_package_id"), _read(topology / "core_id")
    return (package, core) if core else ("", str(cpu))


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
