"""Prefix sharing on the real llama.cpp, in each kind of memory: whatever is shared, and when, no text changes."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec import structs

from service.engine.kv.memory import Memory
from service.engine.llama.context import Context
from service.engine.llama.model import Model
from service.engine.sequences.sequence import Sequence as Seq
from service.engine.sequences.text import Text
from service.engine.tuning import Tuning
from tests.engine import tiny_layers
from tests.engine.conftest import MakeContext
from tests.engine.test_engine import GREEDY, WARM, Driver, Fixed, Request, essence

MEMORIES = dict(zip(tiny_layers.ARCHS, [Memory.CUTTABLE, Memory.WINDOWED, Memory.STATE, Memory.STATE], strict=True))
KINDS = [*((arch, False) for arch in tiny_layers.ARCHS), ("llama", True)]  # (arch, in_order)
N_BATCH = 64
STEM = random.Random(1).choices(range(300), k=200)
N_OWN = 5


@dataclass(frozen=True)
class Ask(Request):
    """A request by its tokens."""

    tokens: tuple[int, ...] = ()
    tenant: str = ""
    scope: str = ""
    takes_cached: bool = True

    def sequence(self, model: Model) -> Seq:
        return Seq(
            id=self.id,
            tokens=list(self.tokens),
            n_prompt=len(self.tokens),
            max_tokens=self.max_tokens,
            text=Text(),
            tenant=self.tenant,
            scope=self.scope,
            takes_cached=self.takes_cached,
        )


def ask(number: int, n_stem: int = 150, *, stem: list[int] = STEM, n_own: int = N_OWN, **options: Any) -> Ask:
    """The number'th prompt: a part of the stem, then tokens that no other prompt begins with. Every second one is
    sampled."""
    own = [300 + number % 18] + [(number * 7 + i) % 300 for i in range(n_own - 1)]
    sampling = GREEDY if number % 2 else structs.replace(WARM, seed=number)
    plain = Ask(str(number), "", sampling, max_tokens=12, ignore_eos=True, tokens=(*stem[:n_stem], *own))
    return replace(plain, **options)


@pytest.fixture(scope="module")
def models(write: Callable[..., Path]) -> dict[str, Model]:
    return {arch: Model(write(f"sharing-{arch}", arch=arch, endless=True)) for arch in tiny_layers.ARCHS}


class SharingDriver(Driver):
    """An engine with prefix sharing, and all requests made of it."""

    def __init__(self, model: Model, context: Context, **options: Any) -> None:
        super().__init__(model, context, **options)
        self.asked: list[Ask] = []

    def ask(self, *asks: Ask) -> None:
        self.asked += asks
        self.submit(*asks)

    def run_to(self, n_steps: int) -> None:
        for _ in range(n_steps):
            self.step()

    def cached(self) -> list[int]:
        """Shared tokens of each prompt, in the order of the requests."""
        finishes = [self.answers[a.id].finish for a in self.asked]
        return [finish.n_cached for finish in finishes if finish]

    def check(self) -> None:
        """Every request that ended by itself has the text that it has where nothing is shared. Where attention may add
        up in another order, one in five may differ (seen: 4 of 27, AVX2); a wrong share spoils all that took part."""
        alone = Driver(self.model, self.context, Tuning(shares=False))
        for a in self.asked:
            alone.submit(a)
            alone.run()
        ids = [a.id for a in self.asked if self.answers[a.id].reason != "cancelled"]
        expected = essence(alone.answers, ids)
        others = [id for id, it in essence(self.answers, ids).items() if it != expected[id]]
        is_exact = self.context.in_order or self.model.meta("general.architecture") == "mamba"
        assert len(others) <= (0 if is_exact else len(ids) // 5), others
        texts = {tuple(alone.answers[id].tokens) for id in ids}
        assert len(texts) == len({a.tokens for a in self.asked if a.id in ids}), "they do differ"


def sharing_driver(
    models: dict[str, Model],
    make_context: MakeContext,
    arch: str,
    in_order: bool,
    *,
    n_slice: int = N_BATCH,
    **sizes: int,
) -> SharingDriver:
    settings: dict[str, Any] = {"n_ctx": 4096, "n_seq": 16, "n_kept": 16, "n_batch": N_BATCH} | sizes
    context = make_context(models[arch], kv_type="bf16", flash_attention="on", in_order=in_order, **settings)
    assert context.memory is MEMORIES[arch] and context.can_share
    return SharingDriver(models[arch], context, tuning=Tuning(chunker=Fixed(n_slice)))


# --- scenes: the order of requests, and how much of each prompt is shared


def together(c: SharingDriver) -> None:
    """Four concurrent requests."""
    c.ask(*map(ask, range(4)))


def sixteen(c: SharingDriver) -> None:
    """Sixteen concurrent requests, after one that is already running."""
    c.ask(ask(0, 0))
    c.run_to(2)
    c.ask(*map(ask, range(1, 17)))


def during_the_prefill(c: SharingDriver) -> None:
    """A request arrives when a chunk of the other's prompt is prefilled."""
    c.ask(ask(0, n_own=90))
    c.run_to(1)
    c.ask(ask(1))


def after_the_prefill(c: SharingDriver) -> None:
    """Two requests arrive, one after another, when the first one has passed the point where they differ."""
    c.ask(ask(0, max_tokens=40))
    c.run_to(6)
    c.ask(ask(1))
    c.run_to(6)
    c.ask(ask(2))


def the_same_again(c: SharingDriver) -> None:
    """A prompt is repeated when it has ended, twice."""
    for n in (1, 3, 5):
        c.ask(replace(ask(1), id=str(n)))
        c.run()


def a_part_of_it(c: SharingDriver) -> None:
    """Prompts share a prefix with one that has ended."""
    for n in range(3):
        c.ask(ask(n))
        c.run()


def a_chat(c: SharingDriver) -> None:
    """The next turns of a chat: each time the whole conversation and a little more."""
    tokens: tuple[int, ...] = ()
    for n in range(3):
        c.ask(replace(ask(n, 60 if n == 0 else 0), tokens=(*tokens, *ask(n, 60 if n == 0 else 0).tokens)))
        c.run()
        tokens = (*c.asked[-1].tokens, *c.answers[str(n)].tokens)


def prefixes_of_prefixes(c: SharingDriver) -> None:
    """Shorter and longer parts of one stem, all concurrent."""
    c.ask(*(ask(i, n) for i, n in enumerate((200, 150, 100, 150, 50, 200))))


def cancelled_leader(c: SharingDriver) -> None:
    """The sequence that prefills for all is cancelled when it has prefilled a part."""
    c.ask(ask(0), ask(1), ask(2))
    c.run_to(1)
    c.engine.cancel("0")


def cancelled_follower(c: SharingDriver) -> None:
    """A waiting request is cancelled, and another arrives."""
    c.ask(ask(0), ask(1), ask(2))
    c.run_to(1)
    c.engine.cancel("1")
    c.ask(ask(3))


N_CHAT = [0, 60 + N_OWN + 11, 60 + 2 * N_OWN + 23]  # the last token of an answer is never decoded
# Where a prefix can be shared at any place; and with a state, where the first request did not stop there.
SCENES: list[tuple[Callable[[SharingDriver], None], list[int], list[int]]] = [
    (together, [0, 150, 150, 150], [0, 150, 150, 150]),
    (sixteen, [0, 0] + [150] * 15, [0, 0] + [150] * 15),
    (during_the_prefill, [0, 150], [0, 150]),
    (after_the_prefill, [0, 150, 150], [0, 0, 150]),
    (the_same_again, [0, 154, 154], [0, 0, 154]),
    (a_part_of_it, [0, 150, 150], [0, 0, 150]),
    (a_chat, N_CHAT, N_CHAT),
    (prefixes_of_prefixes, [0, 150, 100, 150, 50, 200], [0, 150, 100, 150, 50, 200]),
    (cancelled_leader, [0, 64, 150], [0, 64, 150]),
    (cancelled_follower, [0, 0, 150, 150], [0, 0, 150, 150]),
]


@pytest.mark.parametrize(("scene", "anywhere", "with_a_state"), SCENES, ids=lambda x: getattr(x, "__name__", ""))
@pytest.mark.parametrize(("arch", "in_order"), KINDS)
def test_a_scene(
    models: dict[str, Model],
    make_context: MakeContext,
    arch: str,
    in_order: bool,
    scene: Callable[[SharingDriver], None],
    anywhere: list[int],
    with_a_state: list[int],
) -> None:
    """As much is shared as the memory allows, only the rest is prefilled, and no text changes."""
    c = sharing_driver(models, make_context, arch, in_order)
    scene(c)
    c.run()
    assert c.cached() == (with_a_state if MEMORIES[arch] is Memory.STATE else anywhere)
    n_read = {a.id: len(a.tokens) - n for a, n in zip(c.asked, c.cached(), strict=True)}
    for a in c.asked:
        if c.answers[a.id].reason == "cancelled":
            n_read[a.id] = max((n for step in c.steps for id, n, _ in step.prefill if id == a.id), default=0)
    assert sum(step.n_prefill for step in c.steps) == sum(n_read.values())
    assert c.steps[-1].n_kept > 0 and c.steps[-1].kv_kept > 0
    c.check()


@pytest.mark.parametrize(("before", "is_right"), [(0, True), (2, False)])
def test_where_a_window_is_whole(
    models: dict[str, Model], make_context: MakeContext, before: int, is_right: bool
) -> None:
    """A sequence that lost older cells can be shared from where the next token's window is whole; two tokens earlier
    the logits would be wrong."""
    context = make_context(models["gemma3"], n_ctx=256, kv_type="bf16", flash_attention="on")
    tokens = STEM[:110]
    context.decode([(0, 0, range(100), False), (1, 0, range(50), False), (2, 0, tokens[:50], False)])
    context.forget(1)
    context.decode([(2, 50, tokens[50:], False)])
    whole = [n for n in range(1, 110) if context.has_window(2, n)]
    assert whole == list(range(whole[0], 110)) and 20 < whole[0] < 90
    n = whole[0] - before
    context.share(2, 3, n)
    (index,) = context.decode([(3, n, tokens[n : n + 1], True)])
    shared = logits(context, index)
    context.clear()
    (index,) = context.decode([(3, 0, tokens[: n + 1], True)])
    assert np.allclose(shared, logits(context, index), atol=0.01) == is_right


def logits(context: Context, index: int) -> Any:
    return context.logits(index).copy()


def test_a_window_that_was_overwritten(models: dict[str, Model], make_context: MakeContext) -> None:
    """Once other sequences have reused the cells in its window, a prefix is prefilled again; it is kept from then
    on."""
    c = sharing_driver(models, make_context, "gemma3", False, n_ctx=512, n_seq=2, n_kept=2)
    c.ask(ask(0))
    c.run()
    c.ask(ask(1, 0, n_own=400))
    c.run()
    for n in (2, 3):
        c.ask(ask(n))
        c.run()
    assert c.cached() == [0, 0, 0, 150]
    c.check()


@pytest.mark.parametrize("arch", tiny_layers.ARCHS)
def test_prefixes_are_not_shared_between_scopes(models: dict[str, Model], make_context: MakeContext, arch: str) -> None:
    """Nothing is shared between scopes, neither concurrently nor later; tenants of one scope share."""
    c = sharing_driver(models, make_context, arch, False)
    c.ask(ask(0, tenant="a", scope="a"), ask(1, tenant="b", scope="b"))
    c.run()
    c.ask(ask(2, tenant="c", scope="c"))
    c.run()
    assert c.cached() == [0, 0, 0]
    c.ask(ask(3, tenant="d", scope="all"), ask(4, tenant="e", scope="all"))
    c.run()
    assert c.cached() == [0, 0, 0, 0, 150]
    c.check()


@pytest.mark.parametrize(("arch", "in_order"), KINDS)
def test_a_prompt_that_takes_nothing_from_the_cache(
    models: dict[str, Model], make_context: MakeContext, arch: str, in_order: bool
) -> None:
    """All of it is computed, its text is the same, and later prompts share what it left."""
    c = sharing_driver(models, make_context, arch, in_order)
    for n in range(4):
        c.ask(replace(ask(1), id=str(n), takes_cached=n != 1))
        c.run()
    first, second, _, last = c.cached()
    assert (first, second) == (0, 0) and last >= 150
    c.check()


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(("arch", "in_order"), KINDS)
def test_in_a_small_cache(
    models: dict[str, Model], make_context: MakeContext, arch: str, in_order: bool, seed: int
) -> None:
    """Whatever is shared, evicted, preempted, cancelled and compacted, no text changes."""
    c = sharing_driver(models, make_context, arch, in_order, n_slice=16, n_ctx=256, n_seq=6, n_kept=4)
    chance, cells, n_kept, n_evicted, n_tidied = random.Random(seed), c.engine.scheduler.cells, 0, 0, 0
    for n in range(30):
        stem = STEM if chance.random() < 0.7 else STEM[::-1]
        c.ask(ask(n, chance.randrange(20, 120), stem=stem, n_own=1 + n % 20, max_tokens=chance.randrange(5, 60)))
        for _ in range(chance.randrange(12)):
            n_dead = cells.n_dead
            c.step()
            n_evicted += len(c.engine.scheduler.kept) < n_kept
            n_tidied += n_dead > 0 == cells.n_dead and cells.n_live > 0
            n_kept = len(c.engine.scheduler.kept)
        if chance.random() < 0.2:
            c.engine.cancel(str(chance.randrange(n + 1)))
    c.run()
    assert sum(n > 0 for n in c.cached()) > 5
    assert sum(step.n_preempted for step in c.steps) > 0 and n_evicted > 0
    assert (n_tidied > 0) == in_order
    c.check()
