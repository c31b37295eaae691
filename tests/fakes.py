"""Fakes that use the real protocol: a clock, an engine in this process, and the frames that they exchange."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager
from typing import Any

from service.app import Rill
from service.dialects.events import Summary
from service.protocol.codec import Decoder, encode
from service.protocol.frames import Accepted, Cancel, Finish, FinishReason, Frame, Ready, Rejected, Step, Submit
from service.protocol.said import Candidate, Said, TokenLogprob
from service.replication.reservations import end
from service.supervision.supervisor import State
from tests.patience import PATIENCE_S

STORY = ("Once", " upon", " a", " time", " ✨", ".")
PROMPT = {"prompt": "hi"}
CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}]}
# A request that starts a stream of events, for each dialect.
ROUTES: list[tuple[str, dict[str, Any]]] = [
    ("/stream", PROMPT),
    ("/v1/chat/completions", {**CHAT, "stream": True}),
    ("/v1/completions", {**PROMPT, "stream": True, "stream_options": {"include_usage": True}}),
    ("/completion", {**PROMPT, "stream": True}),
]
SUMMARY = Summary(
    finish_reason="stop",
    n_prompt=3,
    n_cached=1,
    n_generated=2,
    seed=7,
    queue_s=0.1,
    prefill_s=0.2,
    ttft_s=None,
    decode_s=0.3,
    total_s=0.4,
)


def ready(**changes: Any) -> Ready:
    """A loaded engine's description of itself."""
    values: dict[str, Any] = {
        "model": "scripted",
        "description": "a script",
        "n_params": 4_000_000,
        "model_bytes": 5_000_000,
        "n_vocab": 1536,
        "n_ctx": 4096,
        "n_ctx_seq": 1024,
        "n_seq": 4,
        "n_batch": 512,
        "n_threads": 2,
        "kv_type": "f16",
        "kv_bytes": 1_000_000,
        "flash_attention": "on",
        "n_layers": 6,
        "n_layers_offloaded": 0,
        "gpu": "",
        "has_chat_template": True,
        "chat_template": "{{ messages }}",
        "bos": "<s>",
        "eos": "</s>",
        "load_s": 0.1,
        "llama_cpp": "0.0.0",
    }
    return Ready(**(values | changes))


def finish(id: str, reason: FinishReason = "stop", *, n_prompt: int = 3, n_generated: int = 6) -> Finish:
    return Finish(
        id=id,
        reason=reason,
        n_prompt=n_prompt,
        n_cached=1,
        n_generated=n_generated,
        queue_s=0.25,
        prefill_s=0.5,
        decode_s=1.0,
    )


def said(text: str, n_logprobs: int | None, offset: int = 0) -> str | Said:
    """What a delta of one token says."""
    if n_logprobs is None:
        return text
    top = [Candidate(text, text.encode(), -0.5), Candidate("<|end|>", None, -2.25), Candidate("�", b"\xe2", -3.0)]
    return Said(text, [TokenLogprob(text, text.encode(), -0.5, offset, top[:n_logprobs])])


def over_the_wire(frame: Frame) -> Frame:
    """The frame as the other side of a connection decodes it."""
    (read,) = Decoder().feed(encode(frame))
    return read


@asynccontextmanager
async def background(run: Callable[[], Coroutine[None, None, None]]) -> AsyncIterator[None]:
    """Runs an endless task for as long as the context lasts."""
    task = asyncio.create_task(run())
    try:
        yield
    finally:
        await end([task])


async def turns(condition: Callable[[], object]) -> None:
    """Lets the event loop run until the condition holds, of which there is no notification."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0)


class Clock:
    """Monotonic seconds that pass only when the test advances them."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


class ScriptedEngine:
    """Takes the supervisor's place. By itself it accepts and then sends `pieces`, one per turn of the event loop, after
    the submission's delivered tokens; with `by_hand` it only records what it is sent, and the test plays the engine."""

    def __init__(self, sink: Rill, *, pieces: Iterable[str] = STORY, n_seq: int = 4) -> None:
        self.state = State.STOPPED
        self.progress = 0.0
        self.reason = ""
        self.digest = "scripted"
        self.info: Ready | None = None
        self.by_hand = False
        self.starts_ready = True
        self.pause_s = 0.0  # between two pieces
        self.pieces = tuple(pieces)
        self.n_seq = n_seq
        self.submitted: list[Submit] = []
        self.cancelled: list[str] = []
        self._sink = sink
        self._answering: dict[str, asyncio.Task[None]] = {}

    def start(self) -> None:
        self.state = State.LOADING
        if self.starts_ready:
            self.load()

    async def stop(self) -> None:
        self.state = State.STOPPED
        for task in self._answering.values():
            task.cancel()
        await asyncio.gather(*self._answering.values(), return_exceptions=True)

    def load(self) -> None:
        """It becomes ready."""
        self.state, self.info = State.READY, ready(n_seq=self.n_seq)
        self._sink.ready(self.info)

    def die(self, *, stays_down: bool = False) -> None:
        """It ends without a message; `load` brings it back."""
        self.state, self.reason = State.ENGINE_DOWN, "it died"
        for task in self._answering.values():
            task.cancel()
        self._answering.clear()
        self._sink.lost(stays_down)

    def submit(self, submit: Submit) -> None:
        frame = over_the_wire(submit)
        assert frame == submit
        self.submitted.append(submit)
        if not self.by_hand:
            self._answering[submit.id] = asyncio.create_task(self._answer(submit))

    def cancel(self, id: str) -> None:
        assert over_the_wire(Cancel(id)) == Cancel(id)
        self.cancelled.append(id)
        if task := self._answering.pop(id, None):
            task.cancel()

    def say(self, frame: Accepted | Rejected | Step) -> None:
        """Sends one frame to the front."""
        read = over_the_wire(frame)
        assert isinstance(read, Accepted | Rejected | Step)
        self._sink.deliver(read)

    def accept(self, id: str, n_prompt: int = 3) -> None:
        self.say(Accepted(id, n_prompt, 100))

    def delta(self, id: str, *texts: str | Said) -> None:
        """One step for each text, of one token."""
        for text in texts:
            self.say(Step(deltas=[(id, [7], text)], n_running=1, n_batch=1))

    def finish(self, id: str, reason: FinishReason = "stop", **counts: int) -> None:
        self.say(Step(finished=[finish(id, reason, **counts)]))

    async def submission(self, n: int = 1) -> Submit:
        """Waits for the n-th submission."""
        while len(self.submitted) < n:  # noqa: ASYNC110  # an event for each would hide the script
            await asyncio.sleep(0)
        return self.submitted[n - 1]

    async def _answer(self, submit: Submit) -> None:
        id, n = submit.id, len(submit.delivered)
        self.accept(id)
        await asyncio.sleep(0)
        self.say(Step(prefill=[(id, 3, 3)], n_running=1, n_batch=3, n_prefill=3, kv_used=3))
        for at, piece in enumerate(self.pieces[n:], n):
            await asyncio.sleep(self.pause_s)
            self.delta(id, said(piece, submit.logprobs, len("".join(self.pieces[:at]))))
        self.finish(id, n_generated=len(self.pieces))
        self._answering.pop(id, None)
