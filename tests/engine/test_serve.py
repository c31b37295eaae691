"""The engine process and its connection: what it sends, how it answers frames, and when it ends."""

from __future__ import annotations

import os
import queue
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from service.engine.llama.model import Model
from service.engine.prompts.preparation import Preparer
from service.engine.serve import FrontConnection, Hearing, Work, _next
from service.protocol.codec import MAX_FRAME_BYTES, Decoder, encode
from service.protocol.frames import Accepted, Beat, Build, Cancel, Fatal, Finish, Loading, Ready, Rejected, Step, Submit
from service.protocol.options import Options
from service.protocol.said import text_of
from service.protocol.sampling import Sampling
from tests.engine.child import ROOT, Child
from tests.patience import PATIENCE_S

GREEDY = Sampling(seed=0, temperature=0.0)
FOREVER = 60_000  # tokens: longer than any test waits


@pytest.fixture(scope="module")
def endless(write: Callable[..., Path]) -> Path:
    """A model that generates 65,536 tokens if asked to."""
    return write("endless", n_ctx_train=1 << 16, endless=True)


@pytest.fixture(scope="module")
def shared(endless: Path) -> Iterator[Child]:
    """One engine for the tests that leave it unchanged."""
    with Child(endless, n_ctx=65536, n_seq=4) as child:
        yield child.ready()


def submit(id: str, **fields: Any) -> Submit:
    defaults: dict[str, Any] = {"sampling": GREEDY, "text": "the fox", "max_tokens": 5}
    return Submit(id=id, **defaults | fields)


def follow(child: Child, *ids: str) -> dict[str, tuple[list[int], str, Finish]]:
    """Tokens, text and end of generations, read from the steps up to the last one's end."""
    tokens: dict[str, list[int]] = {id: [] for id in ids}
    texts = dict.fromkeys(ids, "")
    ends: dict[str, Finish] = {}
    while len(ends) < len(ids):
        step = child.wait_for(Step)
        for id, new, said in step.deltas:
            if id in texts:
                tokens[id] += new
                texts[id] += text_of(said)
        ends |= {f.id: f for f in step.finished if f.id in ids}
    return {id: (tokens[id], texts[id], ends[id]) for id in ids}


def test_loading(endless: Path) -> None:
    """The process beats from its start; it reports loading by the percent, then what it has loaded."""
    with Child(endless, n_ctx=2048, n_seq=3, kv_type="bf16") as child:
        ready = child.wait_for(Ready)
        assert any(isinstance(f, Beat) for f in child.seen)
        progress = [f.progress for f in child.seen if isinstance(f, Loading)]
        assert progress == sorted(progress)
        assert progress[-1] == 1.0
        assert len({int(p * 100) for p in progress}) == len(progress)
        assert (ready.model, ready.n_ctx, ready.n_seq, ready.kv_type) == ("tiny", 2048, 3, "bf16")
        assert ready.n_ctx_seq == 2048


def test_options_come_first() -> None:
    """Until then it beats, and any other frame is fatal."""
    with Child() as child:
        for _ in range(2):
            assert isinstance(child.receive(), Beat)
        child.send(submit("early"))
        (last,) = child.rest()
        assert isinstance(last, Fatal) and "the first frame is Submit, not Options" in last.message
        assert (last.ours, child.exit_status()) == (True, 1)


def test_a_generation(shared: Child, endless: Path) -> None:
    """A submit is accepted with its counts; then steps bring its tokens and text, and its end."""
    shared.send(submit("a", max_tokens=20))
    accepted = shared.wait_for(Accepted)
    model = Model(endless)
    n_prompt = len(model.tokenize("the fox", add_special=True, parse_special=False))
    assert accepted == Accepted("a", n_prompt, 20)
    tokens, text, finish = follow(shared, "a")["a"]
    assert len(tokens) == 20
    assert text == b"".join(model.piece(t) for t in tokens).decode("utf-8", "replace")
    assert (finish.reason, finish.n_prompt, finish.n_generated) == ("length", n_prompt, 20)
    assert 0 <= finish.queue_s < 60 and 0 < finish.prefill_s < 60 and 0 < finish.decode_s < 60


def test_accepted_comes_before_the_first_step(shared: Child) -> None:
    """A step never names an id before the front knows that it was accepted."""
    start = len(shared.seen)
    ids = [f"many{i}" for i in range(20)]
    shared.send(*(submit(id, max_tokens=2) for id in ids))
    follow(shared, *ids)
    known: set[str] = set()
    for frame in shared.seen[start:]:
        if isinstance(frame, Accepted):
            known.add(frame.id)
        elif isinstance(frame, Step):
            named = [id for id, *_ in [*frame.queued, *frame.prefill, *frame.deltas]]
            assert known.issuperset([*named, *(f.id for f in frame.finished)])


def test_refused(shared: Child) -> None:
    """An invalid request is refused with a code, and the next request runs."""
    shared.send(submit("bad", text=None, tokens=[10**6]), submit("long", text="x" * 70_000))
    assert shared.wait_for(Rejected) == Rejected("bad", "invalid_prompt", "no token 1000000 in a vocabulary of 318")
    long = shared.wait_for(Rejected)
    assert (long.id, long.code) == ("long", "context_length_exceeded")
    shared.send(submit("good"))
    assert shared.wait_for(Accepted).id == "good"
    assert follow(shared, "good")["good"][2].reason == "length"


def test_a_long_prompt_and_a_grammar(shared: Child, endless: Path) -> None:
    """What may take long to tokenize or parse is prepared in another process, with the same result."""
    text, start = "the fox " * 2000, len(shared.seen)
    shared.send(submit("long", text=text), submit("grammar", sampling=Sampling(seed=0, grammar='root ::= "fox"')))
    ends = follow(shared, "long", "grammar")
    assert ends["grammar"][1] == "fox"
    accepted = {frame.id: frame.n_prompt for frame in shared.seen[start:] if isinstance(frame, Accepted)}
    assert accepted["long"] == len(Model(endless).tokenize(text, add_special=True, parse_special=False))
    shared.send(submit("bad", sampling=Sampling(seed=0, grammar="root ::= (")))
    assert shared.wait_for(Rejected).param == "grammar"


def test_a_request_is_cancelled_while_it_is_tokenized(shared: Child) -> None:
    """It never runs, and the one after it does."""
    shared.send(*(submit(f"long {i}", text="the fox " * 7000) for i in range(3)))
    shared.send(*(Cancel(f"long {i}") for i in range(3)), submit("after"))
    ends = follow(shared, "after")
    assert ends["after"][2].reason == "length"
    shared.send(submit("last", text="the fox " * 2000, max_tokens=1))
    shared.wait_for(Step, lambda step: any(f.id == "last" for f in step.finished))
    assert isinstance(shared.seen[-1], Step)
    assert (shared.seen[-1].n_running, shared.seen[-1].n_waiting) == (0, 0)


class Gate:
    """An inbox that tokenizes when the test allows it, and refuses the text `no`."""

    def __init__(self) -> None:
        self.opens, self.begun = threading.Event(), []  # type: tuple[threading.Event, list[str]]

    def refuse(self, submit: Submit) -> Rejected | None:
        return Rejected(submit.id, "invalid_prompt", "no") if submit.text == "no" else None

    def is_quick(self, submit: Submit) -> bool:
        return True

    def read(self, submit: Submit) -> Rejected:
        self.opens.wait()
        self.begun.append(submit.id)
        return Rejected(submit.id, "invalid_prompt", "read")


def test_cancelled_requests_delay_no_other() -> None:
    """Requests that were cancelled before their turn are not tokenized, and the others are in turns by tenant."""
    ours, theirs = socket.socketpair()
    os.dup(ours.fileno())  # never closed: the end of the connection would end this process
    gate = Gate()
    hearing = Hearing(FrontConnection(theirs), gate, queue.SimpleQueue(), Preparer([]))  # type: ignore[arg-type]
    for run in (hearing.run, hearing.read):
        threading.Thread(target=run, daemon=True).start()
    for n in range(50):
        ours.sendall(encode(submit(f"gone{n}", tenant="a")) + encode(Cancel(f"gone{n}")))
    for n in range(3):
        ours.sendall(encode(submit(f"a{n}", tenant="a")))
    ours.sendall(encode(submit("b", tenant="b")) + encode(submit("last", text="no")))
    decoder, told = Decoder(), list[str]()

    def hear(n: int) -> None:
        while len(told) < n:
            told.extend(frame.id for frame in decoder.feed(ours.recv(1 << 16)) if isinstance(frame, Rejected))

    hear(1)  # all before it were received
    gate.opens.set()
    hear(5)
    assert told == ["last", *[id for id in gate.begun if not id.startswith("gone")]]
    assert [id for id in gate.begun if id.startswith("gone")] in ([], ["gone0"])
    assert told[1:3] in (["a0", "b"], ["b", "a0"])


def test_cancel(shared: Child) -> None:
    """A cancelled generation ends with the next step, and the other one continues."""
    shared.send(submit("long", max_tokens=FOREVER), submit("other", max_tokens=200))
    shared.wait_for(Step, lambda s: any(id == "long" for id, *_ in s.deltas))
    shared.send(Cancel("long"), Cancel("nobody"))
    ends = follow(shared, "long", "other")
    assert ends["long"][2].reason == "cancelled"
    assert 0 < ends["long"][2].n_generated < FOREVER
    assert (ends["other"][2].reason, ends["other"][2].n_generated) == ("length", 200)


def test_cancel_before_its_turn(shared: Child) -> None:
    """A waiting request can be cancelled, too."""
    busy = [f"busy{i}" for i in range(4)]
    shared.send(*(submit(id, max_tokens=FOREVER) for id in busy), submit("waits"))
    shared.wait_for(Accepted, lambda accepted: accepted.id == "waits")
    shared.send(Cancel("waits"))
    finish = follow(shared, "waits")["waits"][2]
    assert (finish.reason, finish.n_generated) == ("cancelled", 0)
    shared.send(*(Cancel(id) for id in busy))
    follow(shared, *busy)
    assert isinstance(shared.seen[-1], Step)
    assert (shared.seen[-1].n_running, shared.seen[-1].kv_used) == (0, 0)


def test_cancel_before_it_is_tokenized(shared: Child) -> None:
    """Cancelled right after its submission, it is unknown to the engine, or ends as cancelled if it was accepted."""
    start = len(shared.seen)
    shared.send(submit("gone", max_tokens=FOREVER), Cancel("gone"), submit("after"))
    follow(shared, "after")
    seen = shared.seen[start:]
    accepted = [frame.id for frame in seen if isinstance(frame, Accepted)]
    ends = [(f.id, f.reason) for frame in seen if isinstance(frame, Step) for f in frame.finished]
    assert ("gone" in accepted) == (("gone", "cancelled") in ends)
    assert ("after", "length") in ends


def test_beats_while_idle_and_busy(shared: Child) -> None:
    """The process beats while it has work, and while it has none."""
    assert shared.wait_for(Beat).busy_s == 0
    assert shared.wait_for(Beat).busy_s == 0
    shared.send(submit("a", max_tokens=FOREVER))
    shared.wait_for(Step)
    assert 0 <= shared.wait_for(Beat).busy_s < 60
    shared.send(Cancel("a"))
    assert follow(shared, "a")["a"][2].reason == "cancelled"


def test_rest() -> None:
    """Without work the loop rests, again and again; work ends the rest at once."""
    work: queue.SimpleQueue[Work] = queue.SimpleQueue()
    work.put("before")
    assert _next(work, lambda: pytest.fail("there was work")) == "before"
    n_rests = 0

    def rest() -> None:
        nonlocal n_rests
        n_rests += 1
        if n_rests == 2:
            work.put("meanwhile")

    assert _next(work, rest) == "meanwhile"
    assert n_rests == 2


def test_sigint_is_for_the_front(shared: Child) -> None:
    """Ctrl-C, which reaches the whole process group, does not end the engine: the front drains first."""
    shared.process.send_signal(signal.SIGINT)
    shared.send(submit("after"))
    assert follow(shared, "after")["after"][2].reason == "length"
    assert shared.process.poll() is None


@pytest.mark.parametrize("busy", [False, True])
def test_the_front_leaves(endless: Path, busy: bool) -> None:
    """When the front closes the connection, or dies, the engine ends, whatever it was doing."""
    with Child(endless, n_ctx=65536) as child:
        child.ready()
        if busy:
            child.send(submit("a", max_tokens=FOREVER))
            child.wait_for(Step)
        child.socket.close()
        assert child.exit_status() == 0


def test_the_front_leaves_while_loading(endless: Path) -> None:
    """It also ends if the front leaves before the model is loaded."""
    with Child(endless) as child:
        child.socket.close()
        assert child.exit_status() == 0


def fatal(model: Path, *, is_final: bool = False, **options: Any) -> str:
    """The engine's last message when it can't continue; final if its settings are to blame."""
    with Child(model, **options) as child:
        (last,) = [f for f in child.rest() if not isinstance(f, Loading | Build)]
        assert isinstance(last, Fatal)
        assert (last.is_final, child.exit_status()) == ((True, 2) if is_final else (False, 1))
        return last.message


BREAKS = """
import socket, sys
from service.engine.serve import serve

def load(options, on_progress):
    raise ZeroDivisionError("float division by zero")

sys.exit(serve(socket.socket(fileno=int(sys.argv[1])), load))
"""


def test_an_internal_error() -> None:
    """The front gets its type, message and location, and that it was ours."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        command = [sys.executable, "-c", BREAKS, str(theirs.fileno())]
        with subprocess.Popen(command, cwd=ROOT, pass_fds=[theirs.fileno()]) as process:
            theirs.close()
            ours.sendall(encode(Options(model="x.gguf")))
            raw = b"".join(iter(lambda: ours.recv(1 << 16), b""))
            assert process.wait(PATIENCE_S) == 1
    (last,) = [frame for frame in Decoder().feed(raw) if isinstance(frame, Fatal)]
    assert last.ours
    assert (
        last.message
        == "ZeroDivisionError: float division by zero at <string>:6 load < " + last.message.partition(" < ")[2]
    )


def test_the_build_is_reported_before_any_computation(endless: Path) -> None:
    """So that the front can name it if the process dies of the first matrix product."""
    with Child(endless, n_ctx=256) as child:
        while not isinstance(frame := child.receive(), Build):
            assert isinstance(frame, Beat)
        assert " = 1 | " in frame.features


def test_a_missing_model(tmp_path: Path) -> None:
    """It is fatal, with its path."""
    assert f"there is no model file at {tmp_path}" in fatal(tmp_path / "absent.gguf")


def test_a_file_that_is_not_a_model(tmp_path: Path) -> None:
    """It is fatal, with llama.cpp's reason."""
    path = tmp_path / "notes.gguf"
    path.write_text("dear diary")
    assert "notes.gguf could not be loaded: " in fatal(path)


def test_too_large_a_budget(endless: Path) -> None:
    """A KV cache that does not fit is fatal before the kernel kills a process; the setting is named."""
    message = fatal(endless, n_ctx=2**31 - 1, is_final=True)
    assert "RILL_N_CTX" in message
    assert "MiB are free" in message


def test_a_broken_template(bpe_path: Path, tmp_path: Path) -> None:
    """An operator's invalid chat template is fatal at once, instead of each chat being refused."""
    (file := tmp_path / "broken.jinja").write_text("{% if %}")
    assert "does not compile" in fatal(bpe_path, chat_template=str(file), is_final=True)


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        struct.pack(">I", MAX_FRAME_BYTES + 1),
        struct.pack(">I", 4) + b"null",
        struct.pack(">I", 2) + b"{}",
    ],
)
def test_garbage_on_the_connection(bpe_path: Path, garbage: bytes) -> None:
    """An invalid frame is fatal: both ends must be of one version."""
    with Child(bpe_path, n_ctx=256) as child:
        child.ready()
        child.socket.sendall(garbage)
        (last,) = child.rest()
        assert isinstance(last, Fatal)
        assert child.exit_status() == 1
