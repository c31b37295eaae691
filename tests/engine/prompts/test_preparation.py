"""preparation.py: slow prompts are prepared in turns, in a process that may be killed, and can be cancelled."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from msgspec.structs import replace

from service.engine.llama.model import Model
from service.engine.prompts.inbox import Inbox
from service.engine.prompts.preparation import FATAL, TOO_LONG, Preparation, Preparer, PreparerDied, command
from service.engine.prompts.read_budget import AT_ONCE_S, PromptBudget
from service.engine.sequences.sequence import Sequence
from service.protocol.frames import Rejected, Submit
from service.protocol.sampling import Sampling
from service.protocol.structure import Structure, StructureKind
from tests.engine.child import ROOT
from tests.patience import PATIENCE_S

# Answers each Submit, with the number of Submits so far in its max_tokens; the text "spin" never ends.
COUNTS = """
import os, socket, sys
from msgspec.structs import replace
from service.engine.prompts.preparer import answer
n = 0
def read(submit):
    global n
    n += 1
    while submit.text == "spin":
        pass
    if submit.text == "die":
        os._exit(1)
    return replace(submit, max_tokens=n)
answer(socket.socket(fileno=int(sys.argv[1])), read, lambda n_characters: 0.1)
"""


def submit(id: str = "id", text: str = "", tenant: str = "", grammar: str = "") -> Submit:
    return Submit(id=id, text=text, tenant=tenant, sampling=Sampling(seed=0, grammar=grammar))


@contextmanager
def preparer(*line: str) -> Iterator[Preparer]:
    made = Preparer([sys.executable, *line])
    try:
        yield made
    finally:
        made.close()


@pytest.fixture(autouse=True)
def in_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def test_a_prompt_that_takes_too_long_kills_only_its_process() -> None:
    """The limit is CPU time; the next request is prepared by a new process, which is started at once."""
    with preparer("-c", COUNTS, "{fd}") as process:
        assert [process.ask(submit()), process.ask(submit())] == [
            Submit(id="id", text="", sampling=Sampling(seed=0), max_tokens=n) for n in (1, 2)
        ]
        with pytest.raises(PreparerDied) as died:
            process.ask(submit(text="spin"))
        assert died.value.is_late
        answered = process.ask(submit())
        assert isinstance(answered, Submit) and answered.max_tokens == 1


def test_it_is_busy_during_a_request() -> None:
    """It is no longer busy when a request has killed it."""
    with preparer("-c", COUNTS, "{fd}") as process:

        def ask() -> None:
            with suppress(PreparerDied):
                process.ask(submit(text="spin"))

        thread, was_busy = threading.Thread(target=ask), False
        thread.start()
        while thread.is_alive():
            was_busy |= process.is_busy
        assert was_busy and not process.is_busy


def test_a_process_that_dies_otherwise_is_not_late() -> None:
    """Whether it was late decides whether the request is tried again."""
    with preparer("-c", COUNTS, "{fd}") as process:
        with pytest.raises(PreparerDied) as died:
            process.ask(submit(text="die"))
        assert not died.value.is_late


def test_a_real_process_prepares_as_the_inbox_does(bpe_path: Path, bpe: Model) -> None:
    """Chats and bare texts become the same sequences, and an invalid grammar is refused with the same message."""
    inbox = Inbox(bpe, n_ctx_seq=500)
    with preparer(*command(bpe_path, 500, "")[1:]) as process:
        for asked in (
            Submit(id="chat", messages=[{"role": "user", "content": "Hello <s>"}], sampling=Sampling(seed=1)),
            submit("text", "the fox <|im_end|>"),
            submit("grammar", "x", grammar='root ::= "fox"'),
        ):
            read = process.ask(asked)
            assert isinstance(read, Submit)
            assert tokens(inbox.begin(read, 0.0)) == tokens(inbox.open(asked, 0.0))
        assert process.ask(submit(grammar="root ::= (")) == inbox.open(submit(grammar="root ::= ("), 0.0)


def tokens(opened: object) -> list[int]:
    assert isinstance(opened, tuple)
    sequence, sampler, _ = opened
    assert isinstance(sequence, Sequence)
    sampler.close()
    return sequence.tokens


def test_llama_cpps_messages_about_a_grammar_are_dropped(bpe_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """llama.cpp prints the whole of a grammar that it refuses after our own check has accepted it."""
    secret = 'root ::= "a" #\f secret'
    with preparer(*command(bpe_path, 500, "")[1:]) as process:
        process.ask(submit(grammar=secret))
    assert "secret" not in "".join(capfd.readouterr())


class Scripted:
    """A fake preparer with scripted durations and deaths."""

    def __init__(self) -> None:
        self.order: list[str] = []
        self.done: list[Submit | Rejected] = []
        self.errors: list[PreparerDied] = []
        self.takes_s = 0.0
        self.now = self.computed = 0.0
        self.budget = PromptBudget(lambda: self.computed, lambda: self.now)
        self.preparation = Preparation(self.ask, self.done.append, self.budget)

    def ask(self, submit: Submit) -> Submit | Rejected:
        self.order.append(submit.id)
        self.computed += self.takes_s
        if self.errors:
            raise self.errors.pop()
        return submit


def test_waiting_ends_with_the_first_request() -> None:
    """Or with its timeout: a process that is ready beforehand is only an optimization."""
    asked = Scripted()
    asked.preparation.wait(0.0)
    asked.preparation.put(submit())
    asked.preparation.wait(PATIENCE_S)
    asked.preparation.turn()
    assert asked.order == ["id"]


def test_by_turns_the_shortest_and_the_oldest() -> None:
    """A short prompt waits for at most one long one, a long one for as many short ones as there are long ones before
    it."""
    asked = Scripted()
    for id, n in (("a", 300), ("b", 200), ("c", 100), ("d", 10), ("e", 20)):
        asked.preparation.put(submit(id, "x" * n))
    for _ in range(5):
        asked.preparation.turn()
    assert asked.order == ["d", "a", "e", "b", "c"]
    assert [answered.id for answered in asked.done] == asked.order


def test_quick_prompts_are_prepared_in_order() -> None:
    """If all are so quick that they need no budget, none overtakes another of its tenant."""
    asked = Scripted()
    preparation = Preparation(asked.ask, asked.done.append)
    for id, n in (("a", 3), ("b", 2), ("c", 1)):
        preparation.put(submit(id, "x" * n))
    preparation.put(submit("other", "x", tenant="other"))
    for _ in range(4):
        preparation.turn()
    assert asked.order == ["a", "other", "b", "c"]


def test_tenants_are_prepared_in_turns() -> None:
    """However many requests one of them has."""
    asked = Scripted()
    for i in range(4):
        asked.preparation.put(submit(f"a{i}", "x", tenant="a"))
    asked.preparation.turn()
    asked.preparation.put(submit("b0", "x" * 100, tenant="b"))
    asked.preparation.put(submit("b1", "x" * 100, tenant="b"))
    for _ in range(5):
        asked.preparation.turn()
    assert [id[0] for id in asked.order] == ["a", "b", "a", "b", "a", "a"]


def test_a_tenant_over_budget_is_overtaken() -> None:
    """Its next request waits, and with it the thread if there is no other, until the budget has recovered."""
    asked = Scripted()
    asked.takes_s = 2 * AT_ONCE_S
    for id in ("a0", "b0"):
        asked.preparation.put(submit(id, tenant=id[0]))
        asked.preparation.turn()
    for id in ("a1", "b1", "c"):
        asked.preparation.put(submit(id, tenant=id[0]))
    asked.preparation.turn()
    assert asked.order == ["a0", "b0", "c"]
    assert asked.budget.wait_s("a") > 0
    asked.now += asked.budget.wait_s("a")
    asked.preparation.turn()
    assert asked.order[-1] == "a1"


def test_a_waiting_thread_takes_new_requests() -> None:
    """A request within its budget is prepared at once, though another one has to wait long."""
    asked = Scripted()
    asked.takes_s = 1000.0
    for id in ("a0", "a1"):
        asked.preparation.put(submit(id, tenant="a"))
    asked.preparation.turn()
    thread = threading.Thread(target=asked.preparation.turn, daemon=True)
    thread.start()
    asked.preparation.put(submit("b", tenant="b"))
    thread.join(PATIENCE_S)
    assert asked.order == ["a0", "b"]


def test_the_process_cpu_time_is_counted() -> None:
    """Killed processes, which have used most, are included."""
    with preparer("-c", COUNTS, "{fd}") as process:
        process.ask(submit())
        with pytest.raises(PreparerDied):
            process.ask(submit(text="spin"))
        assert process.cpu_s() >= 0.1


def test_a_waiting_request_is_cancelled_at_once() -> None:
    """It is never prepared."""
    asked = Scripted()
    asked.preparation.put(submit("a"))
    asked.preparation.put(submit("b"))
    assert asked.preparation.cancel("a")
    assert not asked.preparation.cancel("a")
    asked.preparation.turn()
    assert asked.order == ["b"]


def test_a_request_being_prepared_is_cancelled_without_waiting() -> None:
    """Its result is dropped."""
    asks, proceed = threading.Event(), threading.Event()
    done: list[Submit | Rejected] = []

    def ask(submit: Submit) -> Submit:
        asks.set()
        assert proceed.wait(PATIENCE_S)
        return submit

    preparation = Preparation(ask, done.append)
    thread = threading.Thread(target=preparation.turn)
    thread.start()
    preparation.put(submit("a"))
    assert asks.wait(PATIENCE_S)
    assert preparation.cancel("a")
    proceed.set()
    thread.join(PATIENCE_S)
    assert done == []
    assert not preparation.cancel("a")


LATE, CRASHED = -signal.SIGPROF, -signal.SIGSEGV


@pytest.mark.parametrize(
    ("deaths", "why"), [([LATE], TOO_LONG), ([CRASHED, LATE], TOO_LONG), ([CRASHED, CRASHED], FATAL)]
)
def test_a_prompt_that_kills_the_process_is_refused(deaths: list[int], why: str) -> None:
    """At once if its time was spent; if the process died otherwise the request is tried once more."""
    asked = Scripted()
    asked.errors = [PreparerDied(status) for status in reversed(deaths)]
    asked.preparation.put(submit())
    asked.preparation.turn()
    assert asked.done == [Rejected("id", "invalid_prompt", f"The prompt {why}")]
    assert len(asked.order) == len(deaths)


def test_a_structure_that_kills_the_process_is_refused_by_its_field() -> None:
    """Where the prompt is too short to have been the cause."""
    form = Structure("json", "{}", "json_schema")
    for text, expected in (
        ("x", Rejected("id", "invalid_request", f"json_schema: it {TOO_LONG}", "json_schema")),
        ("x" * 9000, Rejected("id", "invalid_prompt", f"The prompt {TOO_LONG}")),
    ):
        asked = Scripted()
        asked.errors = [PreparerDied(LATE)]
        asked.preparation.put(replace(submit(text=text), structure=form))
        asked.preparation.turn()
        assert asked.done == [expected]


def ref_chain(n: int) -> str:
    """A schema of n references, each to the next."""
    links = ",".join(f'"{i}":{{"$ref":"#/$defs/{i + 1}"}}' for i in range(n))
    return f'{{"$ref":"#/$defs/0","$defs":{{{links},"{n}":{{"type":"null"}}}}}}'


def nested(n: int) -> str:
    return '{"type":"array","minItems":1,"items":' * n + '{"type":"null"}' + "}" * n


def many(keyword: str, n: int, key: str = "{}") -> str:
    return (
        f'{{"type":"object","{keyword}":{{{",".join(f"{chr(34)}{key.format(i)}{chr(34)}:{{}}" for i in range(n))}}}}}'
    )


HOSTILE: dict[str, tuple[StructureKind, str]] = {
    "references": ("json", ref_chain(2000)),
    "nested": ("json", nested(1500)),
    "nested JSON": ("json", '{"const":' + "[" * 20_000 + "]" * 20_000 + "}"),
    "multipleOf": ("json", '{"type":"integer","multipleOf":999983}'),
    "two multiples": ("json", '{"allOf":[{"multipleOf":997},{"multipleOf":991},{"type":"integer","multipleOf":983}]}'),
    "patterns": ("json", many("patternProperties", 500, "^{}.*x")),
    "exponential": ("regex", "(a|a)*" * 20 + "(.*b.{200}){20}"),
    "repeated": ("regex", "((((a{100}){100}){100}){100})"),
    "rules": ("lark", "\n".join(["start: r0", *(f"r{i}: r{i + 1}" for i in range(3000)), 'r3000: "a"'])),
    "ambiguous": ("lark", 'start: x\nx: x x x | "a" | x x | ""'),
    "backtracking": ("lark", 'start: a* "b"\na[stop="c"]: /.*/'),
}


def test_hostile_structures_end_no_more_than_their_process(bpe_path: Path) -> None:
    """Each is refused by its field, or can be followed; and the next request is prepared."""
    form = Structure("choice", '["a","b"]', "guided_choice")
    with preparer(*command(bpe_path, 500, "")[1:]) as process:
        outcomes = {}
        for name, (kind, text) in HOSTILE.items():
            done: list[Submit | Rejected] = []
            preparation = Preparation(process.ask, done.append)
            preparation.put(replace(submit(text="x"), structure=Structure(kind, text, "theirs")))
            preparation.turn()
            outcomes[name] = done[0]
            assert isinstance(process.ask(replace(submit(text="x"), structure=form)), Submit), name
    passed = {name for name, done in outcomes.items() if isinstance(done, Submit)}
    assert passed <= {"references", "rules", "ambiguous", "exponential", "backtracking"}, "few tokens, few states"
    refused = [done for done in outcomes.values() if isinstance(done, Rejected)]
    assert {(done.code, done.param) for done in refused} == {("invalid_request", "theirs")}
    told = {name: done.message for name, done in outcomes.items() if isinstance(done, Rejected)}
    assert "'multipleOf'" in told["multipleOf"] and "'patternProperties'" in told["patterns"]


def test_a_death_not_caused_by_the_request(capsys: pytest.CaptureFixture[str]) -> None:
    """The second attempt succeeds; the operator is informed."""
    asked = Scripted()
    asked.errors = [PreparerDied(1)]
    asked.preparation.put(submit())
    asked.preparation.turn()
    assert asked.done == [submit()]
    assert "(exit status 1)" in capsys.readouterr().err


def test_it_ends_with_the_engine(bpe_path: Path) -> None:
    """The engine's end of the socket is then closed, however the engine ended."""
    with preparer(*command(bpe_path, 500, "")[1:]) as process:
        process.ask(submit())
        assert process._process is not None and process._socket is not None
        process._socket.close()
        assert process._process.wait(PATIENCE_S) == 0
