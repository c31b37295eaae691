"""Sampled tokens become deltas: with their text, and with their log-probabilities where these are wanted."""

from __future__ import annotations

from service.engine.acceptance import accept
from service.engine.llama.model import Model
from service.engine.sampling.logprobs import Ranked
from service.engine.sampling.parallel import Drawn
from service.engine.sequences.sequence import Sequence
from service.engine.sequences.text import Text
from service.protocol.frames import Step
from service.protocol.said import Said


def sequence(*stop: str, max_tokens: int = 20) -> Sequence:
    return Sequence(id="a", tokens=[3], n_prompt=1, max_tokens=max_tokens, text=Text(stop), n_logprobs=1)


def drawn(tokens: list[int]) -> Drawn:
    return Drawn(tokens, logprobs=[Ranked(token, -0.5, ((token, -0.5),)) for token in tokens])


def deltas(model: Model, one: Sequence, tokens: list[int]) -> list[tuple[list[int], str, list[tuple[str, int]]]]:
    """Of each delta its tokens, its text, and the token's text and offset of each log-probability."""
    step = Step()
    accept(model, one, drawn(tokens), 1.0, step)
    found = []
    for _, ids, said in step.deltas:
        assert isinstance(said, Said)
        found.append((ids, said.text, [(each.token, each.offset) for each in said.logprobs]))
    return found


def ids(model: Model, text: str) -> list[int]:
    return model.tokenize(text, add_special=False, parse_special=False)


def test_each_comes_with_its_text(bpe: Model) -> None:
    """One delta a token; offsets count characters."""
    fox, a = ids(bpe, "foxa")
    assert deltas(bpe, sequence(), [fox, a]) == [([fox], "fox", [("fox", 0)]), ([a], "a", [("a", 3)])]


def test_held_ones_come_with_the_text_they_wait_for(bpe: Model) -> None:
    """Those of an incomplete character, and of what may become a stop string, come in one delta with it."""
    tokens = ids(bpe, "✨")
    assert len(tokens) > 1
    assert deltas(bpe, sequence(), tokens) == [(tokens, "✨", [("\ufffd", 0)] * len(tokens))]
    x, y, z = ids(bpe, "xyz")
    assert deltas(bpe, sequence("xyq"), [x, y, z]) == [([x, y, z], "xyz", [("x", 0), ("y", 1), ("z", 2)])]


def test_those_of_a_stop_string_come_at_the_end(bpe: Model) -> None:
    """They belong to generated tokens, which are counted, too, though their text is left out."""
    x, y = ids(bpe, "xy")
    one = sequence("xy")
    assert deltas(bpe, one, [x, y]) == [([x, y], "", [("x", 0), ("y", 1)])]
    assert one.finish_reason == "stop"


def test_that_of_an_end_token_comes_last(bpe: Model) -> None:
    """With what was held; the token itself is not part of the answer."""
    (x,), (end,) = ids(bpe, "x"), bpe.control_ids["<|im_end|>"]
    assert deltas(bpe, sequence(), [x, end]) == [([x], "x", [("x", 0)]), ([], "", [("<|im_end|>", 1)])]
    assert deltas(bpe, sequence("xy"), [x, end]) == [([x], "x", [("x", 0), ("<|im_end|>", 1)])]


def test_nothing_after_the_end(bpe: Model) -> None:
    """Tokens drawn after the last one are dropped, with theirs."""
    x, y = ids(bpe, "xy")
    assert deltas(bpe, sequence(max_tokens=1), [x, y]) == [([x], "x", [("x", 0)])]


def test_where_they_are_not_wanted(bpe: Model) -> None:
    """A delta is its text alone."""
    step, fox = Step(), ids(bpe, "fox")
    assert accept(bpe, sequence(), Drawn(fox), 1.0, step) == 0
    assert step.deltas == [("a", fox, "fox")]
