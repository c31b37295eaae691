"""The wall to C: what would abort the process is an error here, and what the vocabulary says is told as it is."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llama_cpp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.engine import llama
from service.engine.cells import Cells
from service.engine.llama import Context, LlamaError, Model, NoRoom
from service.engine.speculation import MAX_DRAFTS

from . import tiny
from .conftest import MakeContext

Row = tuple[int, int, list[int], int]


def text_of(model: Model, ids: list[int]) -> str:
    return b"".join(model.piece(i) for i in ids).decode()


# --- loading


def test_what_a_model_tells(bpe: Model) -> None:
    """Name, sizes and special tokens are the file's."""
    assert (bpe.name, bpe.n_layers, bpe.n_ctx_train) == ("tiny", 2, 1024)
    assert bpe.n_vocab == 256 + 58 + len(tiny.CONTROLS)  # bytes, merges, control tokens
    assert bpe.text_of(bpe.bos) == "<s>"
    assert bpe.text_of(bpe.eos) == "</s>"
    assert bpe.text_of(-1) == ""
    assert bpe.chat_template == tiny.CHATML
    assert bpe.n_params > 100_000
    assert 0 < bpe.n_bytes < 1 << 20
    assert bpe.description.startswith("llama")


def test_several_end_tokens(bpe: Model) -> None:
    """Both the vocabulary's end of text and its end of turn end an answer."""
    assert {bpe.text_of(t) for t in bpe.end_tokens} == {"</s>", "<|im_end|>"}


def test_control_texts(bpe: Model, spm: Model) -> None:
    """All control tokens' texts are known, the unknown token's too: each could be forged."""
    assert bpe.control_texts == set(tiny.CONTROLS)
    assert spm.control_texts == {"<unk>", "<s>", "</s>"}


def test_metadata(bpe: Model) -> None:
    """Metadata is text, however long; None for what the file has not."""
    assert bpe.meta("llama.block_count") == "2"
    assert bpe.meta("general.nonsense") is None
    assert bpe.meta("tokenizer.chat_template") == tiny.CHATML


def test_long_metadata(write: Callable[..., Path]) -> None:
    """A template of many kilobytes is read whole."""
    template = "{# " + "\u20ac" * 20_000 + " #}x"
    model = Model(write("long", chat_template=template))
    assert model.meta("tokenizer.chat_template") == template
    assert model.chat_template == template


def test_no_chat_template(spm: Model) -> None:
    """A model without a template says so."""
    assert spm.chat_template is None


def test_a_model_without_a_name_is_called_as_its_file(write: Callable[..., Path]) -> None:
    """general.name is optional."""
    assert Model(write("nameless", name=None)).name == "nameless"


def test_progress(bpe_path: Path) -> None:
    """Loading reports from 0 to 1, never backwards."""
    seen: list[float] = []
    Model(bpe_path, on_progress=seen.append).close()
    assert seen == sorted(seen)
    assert seen[-1] == 1.0


def test_no_file(tmp_path: Path) -> None:
    """A path without a file is named in the error."""
    with pytest.raises(LlamaError, match=r"no model file at .*absent\.gguf"):
        Model(tmp_path / "absent.gguf")
    with pytest.raises(LlamaError, match="no model file"):
        Model(tmp_path)


def broken(tmp_path: Path, bpe_path: Path) -> dict[str, bytes]:
    whole = bpe_path.read_bytes()
    return {
        "text": b"This is no model.\n" * 100,
        "empty": b"",
        "magic": b"GGUF",
        "header": whole[:64],
        "vocabulary": whole[:4000],
        "weights": whole[: len(whole) // 2],
        "version": whole[:4] + b"\xff\xff\xff\x7f" + whole[8:],
    }


@pytest.mark.parametrize("name", ["text", "empty", "magic", "header", "vocabulary", "weights", "version"])
def test_a_file_that_is_no_model(tmp_path: Path, bpe_path: Path, name: str) -> None:
    """Text, a truncated or a damaged file is an error that names the file, never a crash."""
    path = tmp_path / f"{name}.gguf"
    path.write_bytes(broken(tmp_path, bpe_path)[name])
    with pytest.raises(LlamaError, match=f"{name}.gguf could not be loaded"):
        Model(path)


def test_an_architecture_that_this_build_does_not_know(write: Callable[..., Path]) -> None:
    """A model newer than llama.cpp is an error, not a crash."""
    with pytest.raises(LlamaError, match="could not be loaded"):
        Model(write("unknown", arch="unheard-of"))


# --- tokenizing

MODELS = ["bpe", "spm"]
AWKWARD = ["a\0b", "\0", "\0" * 50, "x\r\ny", " ", "   ", "\n\n", "\ufeff", "e\u0301\u200d\U0001f98a"]


@pytest.fixture
def model(request: pytest.FixtureRequest) -> Model:
    found: Model = request.getfixturevalue(request.param)
    return found


@pytest.mark.parametrize("model", MODELS, indirect=True)
def test_any_text_comes_back(model: Model) -> None:
    """Tokens' bytes joined are the text, whatever it holds; SentencePiece puts one space before it."""
    prefix = " " if "<unk>" in model.control_texts else ""

    @given(st.text(max_size=40))
    def check(text: str) -> None:
        ids = model.tokenize(text, add_special=False, parse_special=False)
        assert text_of(model, ids) == (prefix + text if text else "")

    check()


@pytest.mark.parametrize("model", MODELS, indirect=True)
@pytest.mark.parametrize(
    "text", ["a\0b", "\0", "\0" * 50, "x\r\ny", " ", "   ", "\n\n", "\ufeff", "e\u0301\u200d\U0001f98a"]
)
def test_awkward_text(model: Model, text: str) -> None:
    """NUL ends nothing, and no space, line end or joiner is lost."""
    ids = model.tokenize(text, add_special=False, parse_special=True)
    assert text_of(model, ids) in (text, " " + text)


@pytest.mark.parametrize("model", MODELS, indirect=True)
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a\ud800b", "a\ufffdb"),
        ("\udfff", "\ufffd"),
        ("\ud800", "\ufffd"),
        ("\udc00\ud800", "\ufffd\ufffd"),
        ("x\ud83e\udd8ay", "x\U0001f98ay"),  # the two halves of one character, as JSON escapes may bring them
    ],
)
def test_lone_surrogates(model: Model, text: str, expected: str) -> None:
    """What UTF-8 can't carry becomes U+FFFD instead of an exception."""
    assert text_of(model, model.tokenize(text, add_special=False, parse_special=False)).lstrip(" ") == expected


def test_leading_space(write: Callable[..., Path], spm: Model, bpe: Model) -> None:
    """The space that SentencePiece puts first is the vocabulary's choice, and the caller's own is kept beside it."""
    plain = Model(write("no-prefix", kind="spm", add_space_prefix=False))
    for model, text, expected in [
        (spm, "fox", " fox"),
        (spm, " fox", "  fox"),
        (plain, "fox", "fox"),
        (plain, " fox", " fox"),
        (bpe, "fox", "fox"),
        (bpe, " fox", " fox"),
    ]:
        assert text_of(model, model.tokenize(text, add_special=True, parse_special=False)) == expected


def test_empty_text(bpe: Model, spm: Model) -> None:
    """Nothing is no token, or BOS alone where the vocabulary asks for it."""
    for model in (bpe, spm):
        assert model.tokenize("", add_special=False, parse_special=True) == []
        assert model.tokenize("", add_special=True, parse_special=True) == [model.bos]


def test_bos_and_eos_are_the_vocabularys_wish(write: Callable[..., Path]) -> None:
    """add_special writes BOS and EOS only where the file asks for them."""
    for add_bos, add_eos in [(False, False), (True, False), (True, True)]:
        model = Model(write(f"bos-{add_bos}-{add_eos}", add_bos=add_bos, add_eos=add_eos))
        x = model.tokenize("x", add_special=False, parse_special=False)
        ids = model.tokenize("x", add_special=True, parse_special=False)
        assert ids == [model.bos] * add_bos + x + [model.eos] * add_eos


def test_parse_special(bpe: Model) -> None:
    """A control token's text is that token only when asked for."""
    ids = bpe.tokenize("<|im_start|>", add_special=False, parse_special=True)
    assert len(ids) == 1
    assert bpe.piece(ids[0]) == b""
    plain = bpe.tokenize("<|im_start|>", add_special=False, parse_special=False)
    assert ids[0] not in plain
    assert text_of(bpe, plain) == "<|im_start|>"


def test_a_text_of_more_tokens_than_bytes(write: Callable[..., Path]) -> None:
    """Without a token for a space SentencePiece spells each as three bytes: still no text is refused."""
    model = Model(write("spaceless", kind="spm", space=False))
    ids = model.tokenize(" " * 100, add_special=True, parse_special=False)
    assert len(ids) > 300


def test_a_megabyte_of_one_letter(write: Callable[..., Path]) -> None:
    """A vocabulary that is split by std::regex, which recurses, takes a long word without overflowing the stack."""
    model = Model(write("deep", pre="deepseek-llm"))
    ids = model.tokenize("a" * (1 << 20), add_special=False, parse_special=False)
    assert len(ids) == 1 << 20


def test_longest_piece(bpe: Model, spm: Model) -> None:
    """No token stands for more bytes than longest_piece: what is refused by it could not have fitted."""
    for model in (bpe, spm):
        assert max(len(model.piece(t)) for t in range(model.n_vocab)) <= model.longest_piece <= 16


def test_a_long_text(bpe: Model) -> None:
    """100 KB and more are tokenized whole."""
    text = "Hello world\u20ac " * 20_000
    assert text_of(bpe, bpe.tokenize(text, add_special=False, parse_special=True)) == text


@pytest.mark.parametrize("token", [-1, 10**6, 2**31 - 1, -(2**31)])
def test_no_such_token(bpe: Model, token: int) -> None:
    """An id outside the vocabulary is an error: C would abort the process."""
    with pytest.raises(LlamaError, match=f"no token {token} in a vocabulary of {bpe.n_vocab}"):
        bpe.piece(token)


def test_every_piece(bpe: Model, spm: Model) -> None:
    """Each token has its bytes, control tokens none, and asking again gives the same."""
    for model in (bpe, spm):
        pieces = [model.piece(t) for t in range(model.n_vocab)]
        assert [model.piece(t) for t in range(model.n_vocab)] == pieces
        assert {t for t, p in enumerate(pieces) if not p} == {
            t for t in range(model.n_vocab) if model.text_of(t) in model.control_texts
        }
        assert {bytes([b]) for b in range(256)} <= set(pieces)
        with pytest.raises(LlamaError):
            model.piece(model.n_vocab)


def test_a_piece_longer_than_the_buffer(write: Callable[..., Path]) -> None:
    """A token of hundreds of bytes is delivered whole."""
    word = "a" * 300
    model = Model(write("wordy", controls=[*tiny.CONTROLS, f"<{word}>"]))
    assert f"<{word}>" in model.control_texts
    long = "world" * 30
    longest = Model(write("wordy-spm", kind="spm", words=[long]))
    assert b" " + long.encode() in {longest.piece(t) for t in range(longest.n_vocab)}


# --- decoding


def ids_of(model: Model, text: str) -> list[int]:
    return model.tokenize(text, add_special=True, parse_special=False)


def test_decode_tells_where_each_rows_logits_are(bpe: Model, make_context: MakeContext) -> None:
    """The batch index of each row's last token comes back, and its logits are that row's own."""
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
def test_a_batch_that_c_would_not_survive(bpe: Model, make_context: MakeContext, rows: list[Row]) -> None:
    """Too many tokens, no tokens, no such sequence, token or position: an error, and the context goes on."""
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
def test_logits_that_were_not_asked_for(bpe: Model, make_context: MakeContext, index: int) -> None:
    """Sampling where no logits are is an error: C would abort the process."""
    context = make_context(bpe)
    with pytest.raises(LlamaError, match="no logits"):
        context.logits(index)  # before any decode
    assert context.decode([(0, 0, [1, 2, 3], True), (1, 0, [4], False)]) == [2, 3]
    with pytest.raises(LlamaError, match="no logits"):
        context.logits(index)
    context.logits(2)


def test_logits_of_the_batch_before(bpe: Model, make_context: MakeContext) -> None:
    """Where the batch before had logits and this one has none, there are none."""
    context = make_context(bpe)
    context.decode([(0, 0, [1], True)])
    assert context.decode([(0, 1, [2, 3], True)]) == [1]
    with pytest.raises(LlamaError, match="no logits"):
        int(context.logits(0).argmax())
    int(context.logits(1).argmax())


def test_no_logits_after_a_refused_batch(bpe: Model, make_context: MakeContext) -> None:
    """What was computed before a batch that failed is not taken for its result."""
    context = make_context(bpe, n_ctx=256)
    context.decode([(0, 0, [1] * 200, True)])
    with pytest.raises(NoRoom):
        context.decode([(1, 0, [1] * 200, True)])
    with pytest.raises(LlamaError, match="no logits"):
        int(context.logits(199).argmax())


def test_forget_makes_an_id_as_new(bpe: Model, make_context: MakeContext) -> None:
    """A sequence id that was used before gives the same logits as one that never was."""
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
    """Logits are bit-equal though other sequences' cells become free before one's own; without in_order they are not.

    F32 weights: quantized ones round most differences of a last bit away, and some tokens later not.
    """
    model = Model(write("f32", weights="f32"))
    tokens = ids_of(model, "the fox and the story xyz " * 10)[:100]
    context = make_context(model, kv_type="bf16", flash_attention="on", in_order=in_order)
    alone = []
    for i, token in enumerate(tokens):
        alone.append(bits(model, context, context.decode([(0, i, [token], True)])[0]))
    context.forget(0)
    context.decode([(1, 0, [*tokens, *tokens], False)])
    beside = []
    for i, token in enumerate(tokens):
        if i == 20:
            context.forget(1, dead=in_order)
        beside.append(bits(model, context, context.decode([(0, i, [token], True)])[0]))
    assert beside[:20] == alone[:20]
    assert (beside == alone) == in_order


@pytest.mark.parametrize("in_order", [True, False])
def test_the_order_of_cells_after_cuts(write: Callable[..., Path], make_context: MakeContext, in_order: bool) -> None:
    """Logits are bit-equal though two sequences decode wrong drafts beside each token: the first one's cells stay dead,
    those behind all others are free again. Were the first one's free, the other would take them before its own."""
    model = Model(write("f32-cuts", weights="f32"))
    tokens = ids_of(model, "the fox and the story xyz " * 10)[:60]
    context = make_context(model, kv_type="bf16", flash_attention="on", in_order=in_order)
    expected: dict[int, list[list[float]]] = {0: [], 1: []}
    beside: dict[int, list[list[float]]] = {0: [], 1: []}
    for i, token in enumerate(tokens):  # as many rows each time, of sequences that nobody cuts: F32 is no more exact
        a, b = i % 2, 1 - i % 2
        first = context.decode([(a, i, [token], 1), (2, 3 * i, [7, 8, 9], 3), (b, i, [token], 1), (3, i, [5], 1)])
        expected[a].append(bits(model, context, first[0]))
        expected[b].append(bits(model, context, first[2]))
    context.clear()
    for i, token in enumerate(tokens):
        a, b = i % 2, 1 - i % 2
        first = context.decode([(a, i, [token, 7, 8, 9], 4), (b, i, [token, 5], 2)])
        beside[a].append(bits(model, context, first[0]))
        beside[b].append(bits(model, context, first[1]))
        context.cut(a, i + 1, dead=in_order)
        context.cut(b, i + 1)
    assert (beside == expected) == in_order


def test_logits_of_several_of_a_rows_tokens(bpe: Model, make_context: MakeContext) -> None:
    """The last so many tokens of a row have logits, the index is that of the first of them, and what is cut and
    decoded again gives the same ones."""
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
    """C would abort; the context goes on, and has room for drafts even with one sequence."""
    context = make_context(bpe, n_seq=1, n_kept=0)
    most = context.n_outputs_max
    assert most == 1 + MAX_DRAFTS
    for rows in ([(0, 0, [1] * (most + 1), most + 1)], [(0, 0, [1, 2], 3)]):
        with pytest.raises(LlamaError, match="logits"):
            context.decode(rows)
    assert context.decode([(0, 0, [1] * most, most)]) == [0]
    assert make_context(bpe, n_seq=1, n_kept=0, n_batch=8).n_outputs_max == 8


class Books:
    """A context and the count of its cells, as scheduler and engine keep them together."""

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


def test_dead_cells_are_taken_when_they_are_needed(bpe: Model, make_context: MakeContext) -> None:
    """Keeping the order costs no cell: what is not used by living sequences can be had, to the last one."""
    books = Books(make_context(bpe, n_ctx=256, in_order=True))
    books.decode((0, 0, [1] * 100, False), (1, 0, [1] * 50, False))
    books.forget(1)  # 50 dead beside 100
    books.decode((1, 0, [1] * 156, False))
    with pytest.raises(NoRoom):
        books.decode((0, 100, [1], False))
    books.forget(0)
    books.decode((0, 0, [1] * 100, False))
    books.forget(1)
    books.forget(0)
    books.decode((2, 0, [1] * 256, False))


def test_shared_cells_stay_shared_when_all_are_copied_together(bpe: Model, make_context: MakeContext) -> None:
    """A prefix that three share takes its cells once, before and after the dead ones are freed, and each goes on with
    the bits that it has alone."""
    context = make_context(bpe, n_ctx=256, kv_type="bf16", flash_attention="on", in_order=True)
    prefix, tail = list(range(1, 81)), [5, 6, 7]
    alone = bits(bpe, context, context.decode([(0, 0, [*prefix, *tail], True)])[0])
    context.clear()
    books = Books(context)
    books.decode((0, 0, [9] * 50, False), (1, 0, prefix, False))
    books.share(1, 2, 80)
    books.decode((2, 80, tail[:2], False))
    books.share(2, 3, 82)
    books.share(1, 4, 80)
    books.forget(0)
    books.forget(1)  # its cells are others'
    assert repr(books.cells) == "<Cells 82 live, 50 dead of 256>"
    index = books.decode((2, 82, tail[2:], False), (3, 82, tail[2:], True))
    assert bits(bpe, context, index) == alone
    index = books.decode((5, 0, [3] * 150, False), (4, 80, tail, True))  # fits without the dead only
    assert (bits(bpe, context, index), books.cells.n_dead) == (alone, 0)
    books.forget(5)
    index = books.decode((2, 83, [8], True))
    assert bits(bpe, context, index) == bits(bpe, context, books.decode((4, 83, [8], True)))


def test_as_many_sequences_as_can_be(bpe: Model, make_context: MakeContext) -> None:
    """All 256 sequences can be had without the order, which needs one; 255 with it."""
    assert not make_context(bpe, n_seq=256, in_order=True).in_order
    context = make_context(bpe, n_seq=255, in_order=True)
    context.decode([(254, 0, [1], True), (0, 0, [1], True)])
    context.forget(254)
    context.decode([(0, 1, [1], True)])


def test_warm_up_leaves_nothing(bpe: Model, spm: Model, make_context: MakeContext) -> None:
    """After warming up all cells are free."""
    for model in (bpe, spm):
        context = make_context(model, n_ctx=256)
        context.warm_up(3)
        context.decode([(0, 0, [1] * 256, False)])


@pytest.mark.parametrize("kv_type", llama.KV_TYPES)
def test_every_kv_type(bpe: Model, make_context: MakeContext, kv_type: str) -> None:
    """Each KV type on the list gives a context that computes."""
    context = make_context(bpe, kv_type=kv_type, flash_attention="on")
    (index,) = context.decode([(0, 0, [1, 2, 3], True)])
    assert 0 <= int(context.logits(index).argmax()) < bpe.n_vocab


def test_more_sequences_than_llama_cpp_knows(bpe: Model, make_context: MakeContext) -> None:
    """Up to MAX_SEQUENCES sequences can be had, and not one more."""
    assert make_context(bpe, n_seq=llama.MAX_SEQUENCES).n_seq == 256
    with pytest.raises(LlamaError):
        make_context(bpe, n_seq=llama.MAX_SEQUENCES + 1).decode([(llama.MAX_SEQUENCES, 0, [1], False)])


def test_a_batch_of_many_sequences(bpe: Model, make_context: MakeContext) -> None:
    """256 sequences decode and sample in one batch."""
    context = make_context(bpe, n_seq=256, n_ctx=1024, n_batch=256)
    last = context.decode([(i, 0, [i], True) for i in range(256)])
    assert last == list(range(256))
    assert len({int(context.logits(i).argmax()) for i in last}) > 20


# --- the log and the environment


def test_the_log_is_the_callers(llama_log: list[tuple[int, str]], tmp_path: Path) -> None:
    """llama.cpp's own words reach the log with their level."""
    n = len(llama_log)
    path = tmp_path / "text.gguf"
    path.write_text("no model")
    with pytest.raises(LlamaError):
        Model(path)
    assert any(level == 4 and "magic" in text for level, text in llama_log[n:])


def test_environment() -> None:
    """Importing the room has set what libgomp and ggml read when they are loaded."""
    assert os.environ["GOMP_SPINCOUNT"]
    assert os.environ["GGML_NO_BACKTRACE"]


def test_gpu_devices() -> None:
    """The list of GPUs is a list of their names, empty where the build has none."""
    devices: list[Any] = llama.gpu_devices()
    assert all(isinstance(d, str) and d for d in devices)


def test_contexts_are_independent(bpe: Model) -> None:
    """Two contexts of one model do not see each other's cells."""
    one, two = (
        Context(bpe, n_ctx=256, n_seq=1, n_batch=64, n_threads=1, kv_type="bf16", flash_attention="on") for _ in "ab"
    )
    one.decode([(0, 0, [1, 2, 3], False)])
    (index,) = two.decode([(0, 0, [5], True)])
    alone = int(two.logits(index).argmax())
    one.close()
    two.forget(0)
    (index,) = two.decode([(0, 0, [5], True)])
    assert int(two.logits(index).argmax()) == alone
    two.close()
