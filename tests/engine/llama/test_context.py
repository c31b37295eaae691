"""context.py on the real llama.cpp: cells, decodes and logits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import llama_cpp
import pytest

from service.engine.kv.cells import Cells
from service.engine.llama.constants import KV_TYPES, MAX_SEQUENCES
from service.engine.llama.context import Context, ContextParams, NoRoom
from service.engine.llama.model import LlamaError, Model
from service.engine.speculation.planning import MAX_DRAFTS
from tests.engine.conftest import MakeContext

Row = tuple[int, int, list[int], int]


def ids_of(model: Model, text: str) -> list[int]:
    return model.tokenize(text, add_special=True, parse_special=False)


def test_decode_returns_the_index_of_each_rows_logits(bpe: Model, make_context: MakeContext) -> None:
    """It returns the batch index of each row's last token, with that row's own logits."""
    context = make_context(bpe)
    a, b = ids_of(bpe, "Hello world"), ids_of(bpe, "the fox and the story")
    (alone,) = context.decode([(0, 0, b, True)])
    expected = int(context.logits(alone).argmax())
    context.forget(0)
    assert context.decode([(2, 0, a, True), (0, 0, b, True)]) == [len(a) - 1, len(a) + len(b) - 1]
    assert int(context.logits(len(a) + len(b) - 1).argmax()) == expected


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [(0, 0, [], True)],
        [(0, 0, [1] * 257, True)],
        [(0, 0, [1] * 200, True), (1, 0, [1] * 57, True)],
        [(8, 0, [1], True)],
        [(-1, 0, [1], True)],
        [(0, 0, [10**6], True)],
        [(0, 0, [-1], True)],
        [(0, 5, [1], True)],  # a gap before the first position
    ],
)
def test_an_invalid_batch_is_refused(bpe: Model, make_context: MakeContext, rows: list[Row]) -> None:
    """Too many tokens, no tokens, or an invalid sequence, token or position is an error, and the context stays
    usable."""
    context = make_context(bpe)
    context.decode([(0, 0, [1, 2], False), (1, 0, [3], False)])
    with pytest.raises(LlamaError):
        context.decode(rows)
    (index,) = context.decode([(0, 2, [4], True)])
    assert 0 <= int(context.logits(index).argmax()) < bpe.n_vocab


def test_no_room(bpe: Model, make_context: MakeContext) -> None:
    """A full cache is NoRoom: nothing was computed, and freeing a sequence helps."""
    context = make_context(bpe, n_ctx=256)
    context.decode([(0, 0, [1] * 200, False)])
    with pytest.raises(NoRoom):
        context.decode([(1, 0, [1] * 100, True)])
    context.forget(0)
    context.decode([(1, 0, [1] * 100, True)])


@pytest.mark.parametrize("index", [0, 1, 3, 255, -1, 256, 10**6])
def test_logits_that_were_not_requested(bpe: Model, make_context: MakeContext, index: int) -> None:
    """Sampling without logits is an error: C would abort the process."""
    context = make_context(bpe)
    with pytest.raises(LlamaError, match="no logits"):
        context.logits(index)  # before any decode
    assert context.decode([(0, 0, [1, 2, 3], True), (1, 0, [4], False)]) == [2, 3]
    with pytest.raises(LlamaError, match="no logits"):
        context.logits(index)
    context.logits(2)


def test_logits_of_the_previous_batch(bpe: Model, make_context: MakeContext) -> None:
    """If the previous batch had logits and this one has none, there are none."""
    context = make_context(bpe)
    context.decode([(0, 0, [1], True)])
    assert context.decode([(0, 1, [2, 3], True)]) == [1]
    with pytest.raises(LlamaError, match="no logits"):
        int(context.logits(0).argmax())
    int(context.logits(1).argmax())


def test_no_logits_after_a_refused_batch(bpe: Model, make_context: MakeContext) -> None:
    """The results of an earlier batch are not taken for those of a batch that failed."""
    context = make_context(bpe, n_ctx=256)
    context.decode([(0, 0, [1] * 200, True)])
    with pytest.raises(NoRoom):
        context.decode([(1, 0, [1] * 200, True)])
    with pytest.raises(LlamaError, match="no logits"):
        int(context.logits(199).argmax())


def test_forget_resets_a_sequence_id(bpe: Model, make_context: MakeContext) -> None:
    """A reused sequence id gives the same logits as a new one."""
    context = make_context(bpe, kv_type="bf16", flash_attention="on")
    prompt = ids_of(bpe, "the fox")

    def logits() -> list[float]:
        (index,) = context.decode([(1, 0, prompt, True)])
        return bits(bpe, context, index)

    fresh = logits()
    context.forget(1)
    context.decode([(1, 0, ids_of(bpe, "something else that is longer"), False)])
    context.forget(1)
    assert logits() == fresh


def bits(model: Model, context: Context, index: int) -> list[float]:
    row = llama_cpp.llama_get_logits_ith(context._context, index)
    return [float(row[i]) for i in range(model.n_vocab)]


@pytest.mark.parametrize("in_order", [True, False])
def test_the_order_of_cells(write: Callable[..., Path], make_context: MakeContext, in_order: bool) -> None:
    """Logits are bit-equal though other sequences' cells become free before its own; without in_order they are not.

    F32 weights: quantized ones round most last-bit differences away, but not always.
    """
    model = Model(write("f32", weights="f32"))
    tokens = ids_of(model, "the fox and the story xyz " * 10)[:100]
    context = make_context(model, kv_type="bf16", flash_attention="on", in_order=in_order)
    alone = []
    for i, token in enumerate(tokens):
        alone.append(bits(model, context, context.decode([(0, i, [token], True)])[0]))
    context.forget(0)
    context.decode([(1, 0, [*tokens, *tokens], False)])
    batched = []
    for i, token in enumerate(tokens):
        if i == 20:
            context.forget(1, dead=in_order)
        batched.append(bits(model, context, context.decode([(0, i, [token], True)])[0]))
    assert batched[:20] == alone[:20]
    assert (batched == alone) == in_order


@pytest.mark.parametrize("in_order", [True, False])
def test_the_order_of_cells_after_cuts(write: Callable[..., Path], make_context: MakeContext, in_order: bool) -> None:
    """Logits are bit-equal though two sequences decode rejected draft tokens with each token: the first one's cells
    stay dead, those behind all others are free again. If the first one's were free, the other would take them before
    its own."""
    model = Model(write("f32-cuts", weights="f32"))
    tokens = ids_of(model, "the fox and the story xyz " * 10)[:60]
    context = make_context(model, kv_type="bf16", flash_attention="on", in_order=in_order)
    expected: dict[int, list[list[float]]] = {0: [], 1: []}
    batched: dict[int, list[list[float]]] = {0: [], 1: []}
    for i, token in enumerate(tokens):  # the same number of rows, of sequences without cuts, as F32 depends on it
        a, b = i % 2, 1 - i % 2
        first = context.decode([(a, i, [token], 1), (2, 3 * i, [7, 8, 9], 3), (b, i, [token], 1), (3, i, [5], 1)])
        expected[a].append(bits(model, context, first[0]))
        expected[b].append(bits(model, context, first[2]))
    context.clear()
    for i, token in enumerate(tokens):
        a, b = i % 2, 1 - i % 2
        first = context.decode([(a, i, [token, 7, 8, 9], 4), (b, i, [token, 5], 2)])
        batched[a].append(bits(model, context, first[0]))
        batched[b].append(bits(model, context, first[1]))
        context.cut(a, i + 1, dead=in_order)
        context.cut(b, i + 1)
    assert (batched == expected) == in_order


def test_logits_of_several_of_a_rows_tokens(bpe: Model, make_context: MakeContext) -> None:
    """The last n tokens of a row have logits, the index is that of the first of them, and tokens that are cut and
    decoded again give the same ones."""
    context = make_context(bpe, kv_type="bf16", flash_attention="on")
    tokens = ids_of(bpe, "the fox and the story")
    first = context.decode([(1, 0, [1, 2], False), (0, 0, tokens, 3)])
    assert first == [1, 2 + len(tokens) - 3]
    expected = [bits(bpe, context, first[1] + i) for i in range(3)]
    with pytest.raises(LlamaError, match="no logits"):
        context.logits(first[1] - 1)
    context.cut(0, len(tokens) - 2)
    again = context.decode([(0, len(tokens) - 2, tokens[-2:], 2)])
    assert [bits(bpe, context, again[0] + i) for i in range(2)] == expected[1:]


def test_no_more_logits_than_there_is_room_for(bpe: Model, make_context: MakeContext) -> None:
    """C would abort; the context stays usable, and has room for draft tokens even with one sequence."""
    context = make_context(bpe, n_seq=1, n_kept=0)
    most = context.n_outputs_max
    assert most == 1 + MAX_DRAFTS
    for rows in ([(0, 0, [1] * (most + 1), most + 1)], [(0, 0, [1, 2], 3)]):
        with pytest.raises(LlamaError, match="logits"):
            context.decode(rows)
    assert context.decode([(0, 0, [1] * most, most)]) == [0]
    assert make_context(bpe, n_seq=1, n_kept=0, n_batch=8).n_outputs_max == 8


class CountedContext:
    """A context and the count of its cells, kept consistent as by scheduler and engine."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.cells = Cells(context.n_ctx, in_order=True)

    def decode(self, *rows: Row) -> int:
        """The batch index of the last row's last token."""
        if self.cells.must_tidy(sum(len(tokens) for _, _, tokens, _ in rows)):
            self.context.tidy(self.cells.tidy())
        last = self.context.decode(rows)
        for seq_id, _, tokens, _ in rows:
            self.cells.grow(seq_id, len(tokens))
        return last[-1]

    def share(self, source: int, seq_id: int, n: int) -> None:
        self.cells.share(source, seq_id, n)
        self.context.share(source, seq_id, n)

    def forget(self, seq_id: int) -> None:
        self.context.forget(seq_id, dead=self.cells.drop(seq_id))


def test_dead_cells_are_freed_when_they_are_needed(bpe: Model, make_context: MakeContext) -> None:
    """Keeping the order costs no cell: all cells that live sequences do not use are available."""
    counted = CountedContext(make_context(bpe, n_ctx=256, in_order=True))
    counted.decode((0, 0, [1] * 100, False), (1, 0, [1] * 50, False))
    counted.forget(1)  # 50 dead, 100 live
    counted.decode((1, 0, [1] * 156, False))
    with pytest.raises(NoRoom):
        counted.decode((0, 100, [1], False))
    counted.forget(0)
    counted.decode((0, 0, [1] * 100, False))
    counted.forget(1)
    counted.forget(0)
    counted.decode((2, 0, [1] * 256, False))


def test_shared_cells_stay_shared_in_a_compaction(bpe: Model, make_context: MakeContext) -> None:
    """A prefix shared by three takes its cells once, before and after the dead ones are freed, and each continues with
    the same bits as alone."""
    context = make_context(bpe, n_ctx=256, kv_type="bf16", flash_attention="on", in_order=True)
    prefix, tail = list(range(1, 81)), [5, 6, 7]
    alone = bits(bpe, context, context.decode([(0, 0, [*prefix, *tail], True)])[0])
    context.clear()
    counted = CountedContext(context)
    counted.decode((0, 0, [9] * 50, False), (1, 0, prefix, False))
    counted.share(1, 2, 80)
    counted.decode((2, 80, tail[:2], False))
    counted.share(2, 3, 82)
    counted.share(1, 4, 80)
    counted.forget(0)
    counted.forget(1)  # its cells belong to others
    assert repr(counted.cells) == "<Cells 82 live, 50 dead of 256>"
    index = counted.decode((2, 82, tail[2:], False), (3, 82, tail[2:], True))
    assert bits(bpe, context, index) == alone
    index = counted.decode((5, 0, [3] * 150, False), (4, 80, tail, True))  # fits only without the dead cells
    assert (bits(bpe, context, index), counted.cells.n_dead) == (alone, 0)
    counted.forget(5)
    index = counted.decode((2, 83, [8], True))
    assert bits(bpe, context, index) == bits(bpe, context, counted.decode((4, 83, [8], True)))


def test_the_maximum_number_of_sequences(bpe: Model, make_context: MakeContext) -> None:
    """All 256 sequences are available without the order, which needs one; 255 with it."""
    assert not make_context(bpe, n_seq=256, in_order=True).in_order
    context = make_context(bpe, n_seq=255, in_order=True)
    context.decode([(254, 0, [1], True), (0, 0, [1], True)])
    context.forget(254)
    context.decode([(0, 1, [1], True)])


def test_warm_up_leaves_no_cells(bpe: Model, spm: Model, make_context: MakeContext) -> None:
    """After the warm-up all cells are free."""
    for model in (bpe, spm):
        context = make_context(model, n_ctx=256)
        context.warm_up(3)
        context.decode([(0, 0, [1] * 256, False)])


@pytest.mark.parametrize("kv_type", KV_TYPES)
def test_every_kv_type(bpe: Model, make_context: MakeContext, kv_type: str) -> None:
    """Each KV type on the list gives a context that computes."""
    context = make_context(bpe, kv_type=kv_type, flash_attention="on")
    (index,) = context.decode([(0, 0, [1, 2, 3], True)])
    assert 0 <= int(context.logits(index).argmax()) < bpe.n_vocab


def test_more_sequences_than_llama_cpp_supports(bpe: Model, make_context: MakeContext) -> None:
    """Up to MAX_SEQUENCES sequences are available, and not one more."""
    assert make_context(bpe, n_seq=MAX_SEQUENCES).n_seq == 256
    with pytest.raises(LlamaError):
        make_context(bpe, n_seq=MAX_SEQUENCES + 1).decode([(MAX_SEQUENCES, 0, [1], False)])


def test_a_batch_of_many_sequences(bpe: Model, make_context: MakeContext) -> None:
    """256 sequences decode and sample in one batch."""
    context = make_context(bpe, n_seq=256, n_ctx=1024, n_batch=256)
    last = context.decode([(i, 0, [i], True) for i in range(256)])
    assert last == list(range(256))
    assert len({int(context.logits(i).argmax()) for i in last}) > 20


# --- the log and the environment


def test_contexts_are_independent(bpe: Model) -> None:
    """Two contexts of one model do not see each other's cells."""
    one, two = (
        Context(bpe, ContextParams(n_ctx=256, n_seq=1, n_batch=64, n_threads=1, kv_type="bf16", flash_attention="on"))
        for _ in "ab"
    )
    one.decode([(0, 0, [1, 2, 3], False)])
    (index,) = two.decode([(0, 0, [5], True)])
    alone = int(two.logits(index).argmax())
    one.close()
    two.forget(0)
    (index,) = two.decode([(0, 0, [5], True)])
    assert int(two.logits(index).argmax()) == alone
    two.close()
