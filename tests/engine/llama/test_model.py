"""The interface to C: calls that would abort the process are errors, and the vocabulary is reported correctly."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.engine.llama.model import LlamaError, Model, apply_builtin, builtin_templates
from tests.engine import tiny


def text_of(model: Model, ids: list[int]) -> str:
    return b"".join(model.piece(i) for i in ids).decode()


# --- loading


def test_model_properties(bpe: Model) -> None:
    """Name, sizes and special tokens are the file's."""
    assert (bpe.name, bpe.n_layers, bpe.n_ctx_train) == ("tiny", 2, 1024)
    assert bpe.n_vocab == 256 + 58 + len(tiny.CONTROLS)  # bytes, merges, control tokens
    assert bpe.text_of(bpe.bos) == "<s>"
    assert bpe.text_of(bpe.eos) == "</s>"
    assert bpe.text_of(-1) == ""
    assert bpe.chat_template() == tiny.CHATML
    assert bpe.n_params > 100_000
    assert 0 < bpe.n_bytes < 1 << 20
    assert bpe.description.startswith("llama")


def test_several_end_tokens(bpe: Model) -> None:
    """Both the vocabulary's end of text and its end of turn end an answer."""
    assert {bpe.text_of(t) for t in bpe.end_tokens} == {"</s>", "<|im_end|>"}


def test_control_texts(bpe: Model, spm: Model) -> None:
    """All control tokens' texts are known, also the unknown token's: each could be forged."""
    assert bpe.control_texts == set(tiny.CONTROLS)
    assert spm.control_texts == {"<unk>", "<s>", "</s>"}


def test_metadata(bpe: Model) -> None:
    """Metadata is text, of any length; None for a key that the file lacks."""
    assert bpe.meta("llama.block_count") == "2"
    assert bpe.meta("general.nonsense") is None
    assert bpe.meta("tokenizer.chat_template") == tiny.CHATML


def test_long_metadata(write: Callable[..., Path]) -> None:
    """A template of many kilobytes is read completely."""
    template = "{# " + "\u20ac" * 20_000 + " #}x"
    model = Model(write("long", chat_template=template))
    assert model.meta("tokenizer.chat_template") == template
    assert model.chat_template() == template


def test_no_chat_template(spm: Model) -> None:
    """A model without a template returns None."""
    assert spm.chat_template() is None


def test_several_chat_templates(write: Callable[..., Path]) -> None:
    """A model may have named templates in addition to its default."""
    templates = [{"name": "default", "template": "plain"}, {"name": "tool_use", "template": "tools"}]
    model = Model(write("several", chat_template=templates))
    assert [model.chat_template(name) for name in (None, "tool_use", "x")] == ["plain", "tools", None]


def test_llama_cpps_own_templates() -> None:
    """They are found by name, or recognised from a text; anything else is not rendered."""
    assert {"chatml", "llama3", "vicuna"} <= set(builtin_templates())
    turns = [{"role": "user", "content": "\ud800é"}]
    for template in ("chatml", "{% no jinja <|im_start|>"):
        assert apply_builtin(template, turns, opens_answer=False) == "<|im_start|>user\n\ufffdé<|im_end|>\n"
        opened = apply_builtin(template, turns, opens_answer=True)
        assert opened is not None and opened.endswith("<|im_start|>assistant\n")
    long = [{"role": "user", "content": "x" * 10_000}] * 3
    said = apply_builtin("chatml", long, opens_answer=False)
    assert said is not None and said.count("x") == 30_000
    assert apply_builtin("nonsense", turns, opens_answer=True) is None


def test_a_model_without_a_name_has_its_files_name(write: Callable[..., Path]) -> None:
    """general.name is optional."""
    assert Model(write("nameless", name=None)).name == "nameless"


def test_progress(bpe_path: Path) -> None:
    """Loading reports from 0 to 1, never backwards."""
    seen: list[float] = []
    Model(bpe_path, on_progress=seen.append).close()
    assert seen == sorted(seen)
    assert seen[-1] == 1.0


def test_no_file(tmp_path: Path) -> None:
    """The error has the missing path."""
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
def test_a_broken_model_file(tmp_path: Path, bpe_path: Path, name: str) -> None:
    """Text, a truncated or a damaged file is an error that names the file, never a crash."""
    path = tmp_path / f"{name}.gguf"
    path.write_bytes(broken(tmp_path, bpe_path)[name])
    with pytest.raises(LlamaError, match=f"{name}.gguf could not be loaded"):
        Model(path)


def test_an_unknown_architecture(write: Callable[..., Path]) -> None:
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
def test_tokenizing_loses_nothing(model: Model) -> None:
    """The tokens' joined bytes are the text, whatever it holds; SentencePiece puts one space before it."""
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
    """Characters that UTF-8 can't encode become U+FFFD instead of an exception."""
    assert text_of(model, model.tokenize(text, add_special=False, parse_special=False)).lstrip(" ") == expected


def test_leading_space(write: Callable[..., Path], spm: Model, bpe: Model) -> None:
    """The space that SentencePiece puts first is the vocabulary's choice, and the caller's own space is kept in
    addition."""
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
    """An empty text has no token, or BOS alone if the vocabulary requires it."""
    for model in (bpe, spm):
        assert model.tokenize("", add_special=False, parse_special=True) == []
        assert model.tokenize("", add_special=True, parse_special=True) == [model.bos]


def test_bos_is_the_vocabularys_choice(write: Callable[..., Path]) -> None:
    """add_special adds BOS only if the file requires it, and never EOS: an answer does not follow an end."""
    for add_bos, add_eos in [(False, False), (True, False), (True, True)]:
        model = Model(write(f"bos-{add_bos}-{add_eos}", add_bos=add_bos, add_eos=add_eos))
        x = model.tokenize("x", add_special=False, parse_special=False)
        ids = model.tokenize("x", add_special=True, parse_special=False)
        assert ids == [model.bos] * add_bos + x


def test_parse_special(bpe: Model) -> None:
    """A control token's text becomes that token only on request."""
    ids = bpe.tokenize("<|im_start|>", add_special=False, parse_special=True)
    assert len(ids) == 1
    assert bpe.piece(ids[0]) == b""
    plain = bpe.tokenize("<|im_start|>", add_special=False, parse_special=False)
    assert ids[0] not in plain
    assert text_of(bpe, plain) == "<|im_start|>"


def test_a_text_of_more_tokens_than_bytes(write: Callable[..., Path]) -> None:
    """Without a token for a space SentencePiece encodes each as three bytes: no text is refused for it."""
    model = Model(write("spaceless", kind="spm", space=False))
    ids = model.tokenize(" " * 100, add_special=True, parse_special=False)
    assert len(ids) > 300


def test_a_megabyte_of_one_letter(write: Callable[..., Path]) -> None:
    """A vocabulary that is split by std::regex, which recurses, tokenizes a long word without overflowing the stack."""
    model = Model(write("deep", pre="deepseek-llm"))
    ids = model.tokenize("a" * (1 << 20), add_special=False, parse_special=False)
    assert len(ids) == 1 << 20


def test_longest_piece(bpe: Model, spm: Model) -> None:
    """No token stands for more bytes than longest_piece: a text refused because of it could not have fitted."""
    for model in (bpe, spm):
        assert max(len(model.piece(t)) for t in range(model.n_vocab)) <= model.longest_piece <= 16


def test_a_long_text(bpe: Model) -> None:
    """100 KB and more are tokenized completely."""
    text = "Hello world\u20ac " * 20_000
    assert text_of(bpe, bpe.tokenize(text, add_special=False, parse_special=True)) == text


@pytest.mark.parametrize("token", [-1, 10**6, 2**31 - 1, -(2**31)])
def test_no_such_token(bpe: Model, token: int) -> None:
    """An id outside the vocabulary is an error: C would abort the process."""
    with pytest.raises(LlamaError, match=f"no token {token} in a vocabulary of {bpe.n_vocab}"):
        bpe.piece(token)


def test_every_piece(bpe: Model, spm: Model) -> None:
    """Each token has its bytes, control tokens none, and a second query gives the same."""
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
    """A token of hundreds of bytes is returned completely."""
    word = "a" * 300
    model = Model(write("wordy", controls=[*tiny.CONTROLS, f"<{word}>"]))
    assert f"<{word}>" in model.control_texts
    long = "world" * 30
    longest = Model(write("wordy-spm", kind="spm", words=[long]))
    assert b" " + long.encode() in {longest.piece(t) for t in range(longest.n_vocab)}


# --- the library


def test_the_log_is_the_callers(llama_log: list[tuple[int, str]], tmp_path: Path) -> None:
    """llama.cpp's own messages reach the log with their level."""
    n = len(llama_log)
    path = tmp_path / "text.gguf"
    path.write_text("no model")
    with pytest.raises(LlamaError):
        Model(path)
    assert any(level == 4 and "magic" in text for level, text in llama_log[n:])


def test_environment() -> None:
    """Importing the package sets the variable that ggml reads when it aborts."""
    assert os.environ["GGML_NO_BACKTRACE"]
