"""Each chain is really made and drawn from, with a grammar too, and both are rebuilt in the middle of an answer."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace
from numpy.typing import NDArray

from service.engine.llama.context import Context
from service.engine.llama.model import LlamaError, Model
from service.engine.llama.sampler_chain import Candidates, Chain
from service.engine.sampling.argmax import Argmax
from service.engine.sampling.chain import chain, is_rebuildable, window
from service.engine.sampling.forbidden import Forbidden
from service.engine.sampling.gbnf_parser import GrammarError
from service.engine.sampling.sampler import Sampler, make
from service.protocol.sampling import Sampling
from tests.engine.conftest import MakeContext

PLAIN = Sampling(seed=1, top_k=0, top_p=1.0, min_p=0.0)


def logits_of(context: Context, model: Model, text: str) -> int:
    """The batch index of the logits after a text."""
    (index,) = context.decode([(0, 0, model.tokenize(text, add_special=True, parse_special=True), True)])
    return index


def draw(context: Context, model: Model, index: int, n: int, sampling: Sampling, **kw: Any) -> list[int]:
    """n tokens that one chain draws from the same logits."""
    links = chain(sampling, sorted(model.end_tokens) if kw.get("ignore_eos") else [])
    sampler = Sampler(model, links, seed=sampling.seed, window=window(sampling), grammar=sampling.grammar)
    sampler.go_on(kw.get("accepted", []), [])
    drawn = [sampler.draw(context.logits(index), Candidates(model.n_vocab)) for _ in range(n)]
    sampler.close()
    return drawn


def test_every_combination_can_be_made_and_drawn_from(bpe: Model, make_context: MakeContext) -> None:
    """No combination of parameters is refused by C, and each draws a token of the vocabulary."""
    context = make_context(bpe)
    index = logits_of(context, bpe, "Hello world")
    for temperature, top_k, top_p, min_p, penalty, ignore_eos in itertools.product(
        [0.0, 0.8], [0, 1, 40], [0.0, 0.9, 1.0], [0.0, 0.05, 1.0], [0.0, 0.5], [False, True]
    ):
        s = Sampling(seed=3, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, frequency_penalty=penalty)
        assert 0 <= draw(context, bpe, index, 1, s, ignore_eos=ignore_eos)[0] < bpe.n_vocab


def test_greedy_chain_is_argmax(bpe: Model, make_context: MakeContext) -> None:
    """The C chain at temperature 0, one with top_k 1 at any temperature, and argmax take the same token."""
    context = make_context(bpe)
    index = logits_of(context, bpe, "the fox")
    likeliest = int(context.logits(index).argmax())
    assert draw(context, bpe, index, 3, Sampling(seed=1, temperature=0.0)) == [likeliest] * 3
    assert draw(context, bpe, index, 3, Sampling(seed=1, temperature=2.0, top_k=1)) == [likeliest] * 3
    assert draw(context, bpe, index, 3, replace(PLAIN, temperature=2.0, top_p=0.0)) == [likeliest] * 3


def test_argmax_takes_none_that_is_forbidden(bpe: Model, make_context: MakeContext) -> None:
    """In place of a Sampler, argmax takes the likeliest allowed token, as a chain with a bias does."""
    context = make_context(bpe)
    index = logits_of(context, bpe, "the fox")
    candidates = Candidates(bpe.n_vocab)
    first = Argmax().draw(context.logits(index), candidates)
    chained = Sampler(bpe, [("bias", ([(first, None)],)), ("greedy", ())])
    expected = chained.draw(context.logits(index), candidates)
    chained.close()
    assert first != expected == Argmax([first]).draw(context.logits(index), candidates)


def test_a_seed_repeats_and_another_differs(bpe: Model, make_context: MakeContext) -> None:
    """The same seed draws the same tokens, the next one others, the highest one too."""
    context = make_context(bpe)
    index = logits_of(context, bpe, "the fox")

    def with_seed(seed: int) -> list[int]:
        return draw(context, bpe, index, 30, replace(PLAIN, seed=seed, temperature=2.0))

    assert with_seed(0) == with_seed(0)
    assert with_seed(2**32 - 2) == with_seed(2**32 - 2)
    assert len({tuple(with_seed(seed)) for seed in (0, 1, 2, 2**31, 2**32 - 2)}) == 5


def test_a_higher_temperature_spreads(bpe: Model, make_context: MakeContext) -> None:
    """Temperature reaches C: a low one yields few tokens, a high one many."""
    context = make_context(bpe)
    index = logits_of(context, bpe, "the fox")
    cold, warm = (len(set(draw(context, bpe, index, 200, replace(PLAIN, temperature=t)))) for t in (0.1, 3.0))
    assert cold < warm / 3


def test_top_k_bounds_the_choice(bpe: Model, make_context: MakeContext) -> None:
    """With top_k 5 at most five tokens are drawn, and with enough draws all five."""
    context = make_context(bpe)
    index = logits_of(context, bpe, "the fox")
    drawn = draw(context, bpe, index, 300, replace(PLAIN, temperature=5.0, top_k=5))
    assert len(set(drawn)) == 5


def test_forbidden_end_tokens_are_never_drawn(bpe: Model, make_context: MakeContext) -> None:
    """ignore_eos excludes every end token, though without it they would be drawn."""
    context = make_context(bpe)
    index = logits_of(context, bpe, "the fox")
    hot = replace(PLAIN, temperature=50.0)  # every token about equally likely
    assert bpe.end_tokens & set(draw(context, bpe, index, 3000, hot))
    assert not bpe.end_tokens & set(draw(context, bpe, index, 3000, hot, ignore_eos=True))


def test_presence_penalty_counts_what_was_accepted(bpe: Model, make_context: MakeContext) -> None:
    """A token of the prompt is as unlikely as the penalty makes it; repeat_last_n excludes older ones."""
    context = make_context(bpe)
    index = logits_of(context, bpe, "the fox")
    first = int(context.logits(index).argmax())
    heavy = Sampling(seed=1, temperature=0.0, presence_penalty=1000.0)
    assert draw(context, bpe, index, 1, heavy) == [first]
    second = draw(context, bpe, index, 1, heavy, accepted=[first])[0]
    assert second != first
    short = replace(heavy, repeat_last_n=2)
    assert draw(context, bpe, index, 1, short, accepted=[first, second, second]) == [first]


def test_penalties_count_what_was_drawn(bpe: Model, make_context: MakeContext) -> None:
    """Drawing informs the chain: with a heavy penalty no token occurs twice."""
    context = make_context(bpe)
    index = logits_of(context, bpe, "the fox")
    drawn = draw(context, bpe, index, 50, Sampling(seed=1, temperature=0.0, frequency_penalty=1000.0))
    assert Counter(drawn).most_common(1)[0][1] == 1
    assert (
        draw(context, bpe, index, 50, Sampling(seed=1, temperature=0.0, frequency_penalty=-1000.0)) == [drawn[0]] * 50
    )


@pytest.mark.parametrize("links", [[], [("top_k", (5,))], [("greedy", ()), ("temperature", (1.0,))]])
def test_a_chain_that_selects_nothing_is_refused(bpe: Model, links: list[tuple[str, tuple[Any, ...]]]) -> None:
    """A chain without a selecting sampler at its end is an error: sampling with it would abort the process."""
    with pytest.raises(LlamaError, match="select"):
        Sampler(bpe, links)


def test_close_twice(bpe: Model) -> None:
    """close may be called twice."""
    sampler = Sampler(bpe, [("greedy", ())])
    sampler.close()
    sampler.close()


# --- rebuilding the sampler in the middle of an answer

KINDS: dict[str, Sampling] = {
    "draw": replace(PLAIN, temperature=1.2),
    "penalties": replace(PLAIN, temperature=1.2, repeat_penalty=1.3, frequency_penalty=0.5, repeat_last_n=7),
    "dry": replace(PLAIN, temperature=0.0, dry_multiplier=5.0, dry_allowed_length=1),
    "dry, drawn": replace(PLAIN, temperature=0.4, dry_multiplier=2.0, dry_allowed_length=0, dry_penalty_last_n=20),
    "top_n_sigma": replace(PLAIN, temperature=1.5, top_n_sigma=1.0),
    "typical_p": replace(PLAIN, temperature=1.5, typical_p=0.4),
    "xtc": replace(PLAIN, temperature=0.7, xtc_probability=0.5, xtc_threshold=0.05),
    "xtc, greedy": replace(PLAIN, temperature=0.0, xtc_probability=0.5, xtc_threshold=0.01),
    "dynamic temperature": replace(PLAIN, temperature=1.0, dynatemp_range=1.0, dynatemp_exponent=2.0),
    "logit_bias": replace(PLAIN, temperature=1.0, logit_bias=((65, 5.0), (66, None))),
    "grammar": replace(PLAIN, temperature=1.2, grammar='root ::= ([a-f]+ " " [0-9]{2,5} "\\n")+'),
    "grammar, greedy": replace(PLAIN, temperature=0.0, grammar='root ::= ([a-f]+ " " [0-9]{2,5} "\\n")+'),
    "all": replace(
        PLAIN,
        temperature=1.0,
        top_k=40,
        top_p=0.95,
        min_p=0.01,
        repeat_penalty=1.1,
        dry_multiplier=0.8,
        xtc_probability=0.3,
        xtc_threshold=0.05,
        typical_p=0.9,
        grammar="root ::= [a-z ]* [^a-z ] root",
    ),
    "mirostat": replace(PLAIN, mirostat=1, mirostat_tau=3.0),
    "mirostat_v2": replace(PLAIN, mirostat=2, mirostat_tau=3.0),
    "adaptive_p": replace(PLAIN, adaptive_target=0.2),
}
N = 40


def answer(
    context: Context,
    model: Model,
    sampling: Sampling,
    *,
    renewed: frozenset[int] = frozenset(),
    forbidden: Forbidden | None = None,
) -> list[int]:
    """N tokens (with a grammar up to its end), rebuilding the sampler after each of these numbers of tokens."""
    prompt = model.tokenize("the fox and the fox and", add_special=True, parse_special=True)
    ignore_eos, candidates = not sampling.grammar, Candidates(model.n_vocab)
    sampler, made = make(model, sampling, ignore_eos=ignore_eos, forbidden=forbidden), list[int]()
    sampler.go_on(prompt, [])
    (index,) = context.decode([(0, 0, prompt, True)])
    while len(made) < N and not model.end_tokens & set(made):
        if len(made) in renewed:
            sampler.close()
            sampler = make(model, sampling, ignore_eos=ignore_eos, forbidden=forbidden)
            sampler.go_on(prompt, made)
        made.append(sampler.draw(context.logits(index), candidates))
        (index,) = context.decode([(0, len(prompt) + len(made) - 1, made[-1:], True)])
    sampler.close()
    context.forget(0)
    return made


@pytest.mark.parametrize("kind", KINDS)
def test_a_rebuilt_sampler_continues_identically(bpe: Model, make_context: MakeContext, kind: str) -> None:
    """At any place the prompt, the tokens so far and the seed determine what each sampler does next; for mirostat and
    adaptive-p they do not, which is_rebuildable reports."""
    context, sampling = make_context(bpe), KINDS[kind]
    undisturbed = answer(context, bpe, sampling)
    assert len(undisturbed) > 10 and answer(context, bpe, sampling) == undisturbed
    places = [{1}, {2}, {9}, {N // 2}, {N - 1}, set(range(1, N))]
    again = [answer(context, bpe, sampling, renewed=frozenset(at)) for at in places]
    assert (again == [undisturbed] * len(places)) == is_rebuildable(sampling)


@pytest.mark.parametrize("kind", ["greedy", "draw", "penalties", "xtc", "grammar"])
def test_forbidden_tokens(bpe: Model, make_context: MakeContext, kind: str) -> None:
    """No word is completed and no end comes too early, and a rebuilt sampler continues identically."""
    others = {"greedy": replace(PLAIN, temperature=0.0), "grammar": with_grammar("root ::= [a-z ]+", seed=2)}
    context, sampling = make_context(bpe), (KINDS | others)[kind]
    plain = answer(context, bpe, sampling)
    pairs, ends = set(pairwise(plain)), bpe.end_tokens.union(plain[20:22])
    forbidden = Forbidden(ends=ends, min_tokens=N // 2, words=sorted(pairs))
    made = answer(context, bpe, sampling, forbidden=forbidden)
    assert len(made) > 10
    assert not pairs & set(pairwise(made)) and not ends & set(made[: N // 2])
    places = [{1}, {9}, {N // 2}, set(range(1, N))]
    again = [answer(context, bpe, sampling, renewed=frozenset(at), forbidden=forbidden) for at in places]
    assert again == [made] * len(places)


def test_argmax_suffices_for_what_is_always_forbidden(bpe: Model) -> None:
    """No chain is needed for words of one token."""
    greedy = replace(PLAIN, temperature=0.0)
    assert isinstance(make(bpe, greedy, forbidden=Forbidden(words=[(5,)])), Argmax)
    logits = -np.abs(np.arange(bpe.n_vocab, dtype=np.float32) - 5)
    assert make(bpe, greedy, forbidden=Forbidden(words=[(5,)])).draw(logits, Candidates(bpe.n_vocab)) in (4, 6)
    assert not isinstance(make(bpe, greedy, forbidden=Forbidden(words=[(5, 6)])), Argmax)
    assert not isinstance(make(bpe, greedy, forbidden=Forbidden(ends=[5], min_tokens=1)), Argmax)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("draw",)])
def test_each_sampler_reaches_c(bpe: Model, make_context: MakeContext, kind: str) -> None:
    """It changes the answer."""
    context, sampling = make_context(bpe), KINDS[kind]
    plain = replace(PLAIN, seed=sampling.seed, temperature=sampling.temperature)
    assert answer(context, bpe, sampling) != answer(context, bpe, plain)


def test_xtc_draws_as_its_probability_says(bpe: Model, make_context: MakeContext) -> None:
    """With probability one half the likeliest token is left out about every other time."""
    context = make_context(bpe)
    index = logits_of(context, bpe, "the fox")
    first = int(context.logits(index).argmax())
    s = replace(PLAIN, temperature=0.0, xtc_probability=0.5, xtc_threshold=0.0)
    assert draw(context, bpe, index, 400, s).count(first) == pytest.approx(200, abs=50)


def test_a_bias_bans_and_forces(bpe: Model, make_context: MakeContext) -> None:
    """A banned token is never drawn, one with bias 100 always."""
    context = make_context(bpe)
    index = logits_of(context, bpe, "the fox")
    first = int(context.logits(index).argmax())
    greedy = replace(PLAIN, temperature=0.0)
    assert draw(context, bpe, index, 1, replace(greedy, logit_bias=((first, None),))) != [first]
    assert draw(context, bpe, index, 3, replace(PLAIN, logit_bias=((7, 100.0),))) == [7] * 3


# --- grammars


def text_of(model: Model, tokens: list[int]) -> str:
    return b"".join(model.piece(token) for token in tokens).decode("utf-8", "replace")


def with_grammar(grammar: str, **fields: Any) -> Sampling:
    return replace(PLAIN, temperature=1.5, grammar=grammar, **fields)


@pytest.mark.parametrize("seed", range(5))
def test_a_text_of_the_grammar_and_then_the_end(bpe: Model, make_context: MakeContext, seed: int) -> None:
    """The drawn text is one of the grammar, to its end: then only an end token fits."""
    sampling = with_grammar('root ::= "{" [a-c]{1,4} ":" ("yes" | "no") "}"', seed=seed)
    made = answer(make_context(bpe), bpe, sampling)
    assert made[-1] in bpe.end_tokens
    assert re.fullmatch(r"\{[a-c]{1,4}:(yes|no)\}", text_of(bpe, made))


def test_greedy_within_a_grammar(bpe: Model, make_context: MakeContext) -> None:
    """The likeliest token if it fits, else the likeliest of those that fit."""
    context = make_context(bpe)
    index = logits_of(context, bpe, "the fox")
    first = int(context.logits(index).argmax())
    greedy = replace(PLAIN, temperature=0.0)
    assert draw(context, bpe, index, 1, replace(greedy, grammar="root ::= [^\\x00]+")) == [first]
    digits = {bpe.tokenize(d, add_special=False, parse_special=False)[0] for d in "0123456789"}
    (digit,) = draw(context, bpe, index, 1, replace(greedy, grammar="root ::= [0-9]"))
    logits = context.logits(index)
    assert digit == max(digits, key=lambda token: logits[token])


def test_control_tokens_spell_nothing(bpe: Model, make_context: MakeContext) -> None:
    """llama.cpp parses <|im_start|> as these letters, but a reader would get none of them: it is not drawn."""
    made = answer(make_context(bpe), bpe, with_grammar('root ::= "<|im_" ("start" | "stop") "|>"', seed=4))
    assert re.fullmatch(r"<\|im_(start|stop)\|>", text_of(bpe, made))


def test_where_no_token_fits(bpe: Model, make_context: MakeContext) -> None:
    """It is an error, and the process survives: no character is left, or the bias bans what the grammar requires. If
    only the end is banned, the answer ends."""
    context = make_context(bpe)
    nothing = with_grammar('root ::= "a" [^\\x00-\\UFFFFFFFF]')
    (a,) = bpe.tokenize("a", add_special=False, parse_special=False)
    for impossible in (nothing, with_grammar('root ::= "a"+', logit_bias=((a, None),))):
        with pytest.raises(GrammarError, match="no token matches"):
            answer(context, bpe, impossible)
        context.forget(0)
    endless = make(bpe, with_grammar('root ::= "a"'), ignore_eos=True)
    index = logits_of(context, bpe, "the fox")
    logits, candidates = context.logits(index), Candidates(bpe.n_vocab)
    assert endless.draw(logits, candidates) == a
    assert endless.draw(logits, candidates) in bpe.end_tokens


def test_a_zero_spelled_too_long(write: Callable[..., Path], make_context: MakeContext) -> None:
    """Bytes of two tokens that llama.cpp's grammar decodes as the character 0 are refused: it would abort."""
    model = Model(write("overlong", words=["\u0122\u0122"]))  # how byte-level BPE spells 80 80
    ids = {model.piece(token): token for token in range(model.n_vocab)}
    first, second = ids[b"\xe0"], ids[b"\x80\x80"]
    bias = ((first, 50.0), (second, 100.0))
    with pytest.raises(GrammarError, match="no token matches"):
        answer(make_context(model), model, with_grammar("root ::= [ -\\U0010FFFF]+", logit_bias=bias))


def test_a_grammar_that_takes_too_long(bpe: Model, make_context: MakeContext) -> None:
    """A grammar with three times as many parses with each character is aborted: detecting it costs bounded work
    (deploy/patches), where llama.cpp without it would take hours."""
    with pytest.raises(GrammarError):
        answer(make_context(bpe), bpe, with_grammar("root ::= . root{0,3}"))


@pytest.mark.parametrize("grammar", ["root ::= [a-z]{2000}{2}", 'root ::= ("a" |)*', "root ::= (", "x"])
def test_what_llama_cpp_refuses(bpe: Model, grammar: str) -> None:
    """Its NULL is an error, too, and not a crash."""
    with pytest.raises(GrammarError):
        make(bpe, with_grammar(grammar))


# --- sampling from only the likeliest tokens

N_WIDE = 40


@pytest.fixture(scope="module")
def wide(write: Callable[..., Path]) -> Model:
    """A vocabulary of some thousand tokens: with hundreds it does not pay to select the likeliest."""
    return Model(write("wide", words=["".join(word) for word in itertools.product("abcdefghijkl", repeat=3)]))


class Whole(Sampler):
    """A sampler that always sees all tokens."""

    def _offer_likeliest(self, logits: NDArray[np.float32], candidates: Candidates) -> bool:
        return False


class Counting(Candidates):
    """Candidates that count how often they are all tokens, and how often few."""

    n_all = n_few = 0

    def fill(self, logits: NDArray[np.float32], ids: NDArray[Any] | None = None) -> None:
        self.n_all, self.n_few = self.n_all + (ids is None), self.n_few + (ids is not None)
        super().fill(logits, ids)


def rows_of(kind: str, n_vocab: int, k: int = 5) -> list[NDArray[np.float32]]:
    """N_WIDE rows of logits."""
    rng = np.random.default_rng(7)
    rows = (rng.standard_normal((N_WIDE, n_vocab)) * 2).astype(np.float32)
    if kind == "steps":  # many equal logits
        rows = np.round(rows)
    if kind == "halves":  # occasionally equal logits among the likeliest
        rows = np.round(rows * 32) / np.float32(32)
    if kind == "zero":
        rows[:] = 0
    if kind == "the k-th twice":
        for row in rows:
            order = np.argsort(row)
            row[order[-k - 3 : -k + 1]] = row[order[-k]]
    if kind == "ruled out":
        rows[:, rng.permutation(n_vocab)[: n_vocab - 3]] = -np.inf
    if kind == "nan":
        rows[:, 17] = np.nan
    if kind == "rising":
        rows.sort(axis=1)
    if kind == "the last":
        rows[:, -k:] += 20
    return list(rows)


NARROW: dict[str, Sampling] = {
    "top_k": replace(PLAIN, top_k=5, temperature=1.0),
    "defaults": Sampling(seed=2, top_k=5),
    "top_k 1": replace(PLAIN, top_k=1),
    "bias": replace(PLAIN, top_k=5, logit_bias=((70, 9.0), (71, None), (3, 5.5), (2000, -3.0))),
    "bias, greedy": replace(PLAIN, temperature=0.0, logit_bias=((70, 5.0), (71, None))),
    "penalties": replace(PLAIN, top_k=5, repeat_penalty=1.3, frequency_penalty=0.7, repeat_last_n=6),
    "rewards": replace(PLAIN, top_k=5, repeat_penalty=0.7, presence_penalty=-1.9, repeat_last_n=6),
    "rewards, greedy": replace(PLAIN, temperature=0.0, presence_penalty=-1.0, repeat_last_n=9),
    "dry": replace(PLAIN, top_k=5, dry_multiplier=3.0, dry_allowed_length=0, dry_penalty_last_n=6),
    "everything": replace(
        PLAIN,
        top_k=6,
        top_p=0.9,
        min_p=0.02,
        typical_p=0.95,
        frequency_penalty=0.3,
        repeat_last_n=5,
        xtc_probability=0.5,
        xtc_threshold=0.05,
        dynatemp_range=0.4,
        logit_bias=((9, 4.0),),
    ),
    "adaptive_p": replace(PLAIN, top_k=5, adaptive_target=0.3),
    "grammar": replace(PLAIN, top_k=5, grammar="root ::= [a-l ]+"),
}
LOGITS = ["apart", "steps", "halves", "zero", "the k-th twice", "ruled out", "nan", "rising", "the last"]


# typical_p of NaN may be any choice, and where nothing fits a grammar there is none.
@pytest.mark.parametrize(
    ("kind", "logits"),
    [
        (kind, logits)
        for kind in NARROW
        for logits in LOGITS
        if not (logits in ("nan", "ruled out") and kind in ("everything", "grammar"))
    ],
)
def test_the_likeliest_suffice(wide: Model, kind: str, logits: str) -> None:
    """The drawn token is the one that the same samplers draw from all tokens, whatever the logits: equal, excluded or
    NaN."""
    s = NARROW[kind]
    made = []
    for sampler_class, candidates in ((Sampler, Counting(wide.n_vocab)), (Whole, Counting(wide.n_vocab))):
        sampler = sampler_class(wide, chain(s, [3]), seed=s.seed, window=window(s), grammar=s.grammar)
        sampler.go_on([70, 71, 90, 90], [])
        made.append([sampler.draw(row, candidates) for row in rows_of(logits, wide.n_vocab)])
        sampler.close()
        if logits == "apart" and kind != "grammar":
            assert (candidates.n_few, candidates.n_all) == ((N_WIDE, 0) if sampler_class is Sampler else (0, N_WIDE))
    assert made[0] == made[1]


@pytest.mark.parametrize("kind", [kind for kind, s in NARROW.items() if not s.grammar and not s.xtc_probability])
def test_two_chains_equal_one(wide: Model, kind: str) -> None:
    """The links before and after the selection of candidates together do what one chain of llama.cpp's does."""
    s, candidates = NARROW[kind], Candidates(wide.n_vocab)
    links, made = chain(s, [3]), []
    whole = Chain(wide, links, seed=s.seed, n_fixed=len(links))
    sampler = Sampler(wide, links, seed=s.seed, window=window(s))
    for row in rows_of("halves", wide.n_vocab):
        candidates.fill(row)
        whole.apply(candidates)
        made.append(candidates.chosen[0])
        whole.accept(made[-1])
    assert [sampler.draw(row, candidates) for row in rows_of("halves", wide.n_vocab)] == made


def test_is_quick(wide: Model, bpe: Model) -> None:
    """If the likeliest suffice, for a vocabulary large enough; never with a grammar."""
    assert Argmax().is_quick
    for s, expected in (
        (NARROW["top_k"], True),
        (NARROW["penalties"], True),
        (replace(NARROW["penalties"], repeat_last_n=64), False),
        (NARROW["grammar"], False),
        (PLAIN, False),
        (replace(PLAIN, top_k=5, top_n_sigma=1.0), False),
        (replace(PLAIN, top_k=5, mirostat=2), False),
    ):
        sampler = make(wide, s)
        assert not isinstance(sampler, Argmax) and sampler.is_quick == expected
    assert not make(bpe, NARROW["top_k"]).is_quick
