"""The engine's end of the socket to the front: one thread receives frames, one tokenizes quick requests, one has slow
ones prepared, one sends heartbeats, the loop steps and reports."""

from __future__ import annotations

import os
import queue
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from service.engine.describe import describe
from service.engine.engine import Engine
from service.engine.host.resources import ConfigurationError
from service.engine.host.threads import PERIOD_S, Threads
from service.engine.llama.model import LlamaError, features
from service.engine.loading import Loaded, load
from service.engine.prompts.inbox import Inbox, Opened
from service.engine.prompts.preparation import Preparation, Preparer, command
from service.engine.prompts.read_budget import PromptBudget
from service.engine.prompts.reading import safely
from service.engine.prompts.validation import decode
from service.engine.sampling.structured import AnySampler
from service.engine.sequences.sequence import Sequence
from service.protocol.codec import Decoder, ProtocolError, encode
from service.protocol.deaths import by_error
from service.protocol.frames import Beat, Build, Cancel, Fatal, Frame, Loading, Rejected, Started, Submit
from service.protocol.options import Options

SETTLED_S = 5.0  # streams that wait for a restarted engine have the cores to themselves at first
BEAT_S = 0.5  # the front gives up after RILL_ENGINE_TIMEOUT_S without one

# What the loop gets from the other threads: a sequence to run, or the id of one to cancel.
Work = tuple[Sequence, AnySampler] | str


class FrontConnection:
    """Frames out, from any thread; `busy_since`: when the loop's current step began, set by the loop."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._decoder, self._arrived = Decoder(decode), deque[Frame]()
        self._lock = threading.Lock()
        self.busy_since: float | None = None

    def send(self, frame: Frame) -> None:
        """Write one frame. When the front is gone the process ends."""
        try:
            with self._lock:
                self._socket.sendall(encode(frame))
        except OSError:
            os._exit(0)

    def receive(self) -> Frame:
        """The next frame; ends the process when the front closes the socket."""
        while not self._arrived:
            try:
                data = self._socket.recv(1 << 18)
            except OSError:
                data = b""
            if not data:
                os._exit(0)
            self._arrived.extend(self._decoder.feed(data))
        return self._arrived.popleft()

    def beat(self) -> None:
        """Send heartbeats forever: the process lives, and its step has taken this long so far."""
        while True:
            since = self.busy_since
            self.send(Beat(0.0 if since is None else time.monotonic() - since))
            time.sleep(BEAT_S)


Load = Callable[[Options, Callable[[float], None]], Loaded]


def serve(sock: socket.socket, load: Load = load) -> int:
    """Load what the front asks for, then serve it until it disconnects. Returns an exit status; Fatal was sent when it
    is not 0."""
    door = FrontConnection(sock)
    threading.Thread(target=door.beat, name="beat", daemon=True).start()
    try:
        _serve(door, load)
    except ConfigurationError as e:
        door.send(Fatal(str(e), is_final=True))
        return 2
    except LlamaError as e:
        door.send(Fatal(str(e)))
    except Exception as e:  # of our own code: the front has to know that, and what it was
        door.send(_ours(e))
    return 1


def _ours(error: Exception) -> Fatal:
    """What the front is told of it: the words of a ProtocolError quote no request."""
    return Fatal(str(error) if isinstance(error, ProtocolError) else by_error(error), ours=True)


def _serve(door: FrontConnection, load: Load) -> None:
    """Ends only by an exception or with the process."""
    options = door.receive()
    if not isinstance(options, Options):
        raise ProtocolError(f"the first frame is {type(options).__name__}, not Options")
    door.send(Build(features()))
    loaded = load(options, _every_percent(door))
    print(describe(loaded.ready), file=sys.stderr, flush=True)
    door.send(loaded.ready)
    work: queue.SimpleQueue[Work] = queue.SimpleQueue()
    preparer = Preparer(command(Path(options.model), loaded.inbox.n_ctx_seq, options.chat_template))
    hearing = Hearing(door, loaded.inbox, work, preparer)
    for run in (hearing.run, hearing.read, hearing.prepare):
        threading.Thread(target=run, name=run.__name__, daemon=True).start()
    # A configured number of threads is fixed; otherwise it adapts to other processes' load.
    threads = None if options.n_threads else Threads(loaded.ready.n_threads, helper=preparer)
    engine = Engine(
        loaded.model,
        loaded.context,
        loaded.tuning,
        threads=threads,
        n_threads=loaded.ready.n_threads,
        started=lambda ids: door.send(Started(ids)),
        refused=door.send,
    )
    with closing(engine):
        _run(engine, door, work)


def _run(engine: Engine, door: FrontConnection, work: queue.SimpleQueue[Work]) -> None:
    """Step while there is something to do. Ends only by an exception or with the process."""
    while True:
        first = [_next(work, engine.rest)] if engine.is_idle else []
        door.busy_since = time.monotonic()  # taking one may be slow, too: a grammar replays all delivered tokens
        for new in first:
            _take(engine, door, new)
        while not work.empty():
            _take(engine, door, work.get())
        step = engine.step()
        door.busy_since = None
        door.send(step)


def _next(work: queue.SimpleQueue[Work], rest: Callable[[], None]) -> Work:
    """The next work item; calls `rest` while there is none."""
    while True:
        with suppress(queue.Empty):
            return work.get(timeout=PERIOD_S)
        rest()


def _take(engine: Engine, door: FrontConnection, work: Work) -> None:
    if isinstance(work, str):
        engine.cancel(work)
        return
    sequence, sampler = work
    try:
        engine.submit(sequence, sampler)
    except LlamaError as e:
        sampler.close()
        door.send(Rejected(sequence.id, "invalid_request", str(e)))


class Hearing:
    """The front's frames, taken to the loop. A cancel takes effect at once, whatever is being tokenized."""

    def __init__(self, door: FrontConnection, inbox: Inbox, work: queue.SimpleQueue[Work], preparer: Preparer) -> None:
        self._door, self._inbox, self._work, self._preparer = door, inbox, work, preparer
        self._quick = Preparation(inbox.read, self._prepared)
        self._slow = Preparation(self._ask, self._prepared, PromptBudget(preparer.cpu_s))

    def run(self) -> None:
        """Receive frames while a step runs, so that a rejection does not wait for the loop."""
        with _no_thread_dies_alone(self._door):
            while True:
                frame = self._door.receive()
                if isinstance(frame, Submit):
                    self._submit(frame)
                elif isinstance(frame, Rejected):  # a Submit with an invalid value
                    self._door.send(frame)
                elif isinstance(frame, Cancel) and not self._forget(frame.id):
                    self._work.put(frame.id)

    def read(self) -> None:
        """Tokenize quick requests, tenants in turn: a client that submits and cancels a hundred times a second delays
        no other tenant."""
        with _no_thread_dies_alone(self._door):
            self._quick.run()

    def prepare(self) -> None:
        """Have slow requests tokenized by the preparer."""
        with _no_thread_dies_alone(self._door):
            self._slow.wait(SETTLED_S)
            self._preparer.start()
            self._slow.run()

    def _ask(self, submit: Submit) -> Submit | Rejected:
        read = self._preparer.ask(submit)
        return read if isinstance(read, Rejected) else safely(read, lambda: self._inbox.compile(read))

    def _submit(self, submit: Submit) -> None:
        if refused := safely(submit, lambda: self._inbox.refuse(submit)):
            self._door.send(refused)
        elif self._inbox.is_quick(submit):
            self._quick.put(submit)
        else:
            self._slow.put(submit)

    def _forget(self, id: str) -> bool:
        """False: it has been tokenized."""
        return self._quick.cancel(id) or self._slow.cancel(id)

    def _prepared(self, read: Submit | Rejected) -> None:
        opened = read if isinstance(read, Rejected) else self._begin(read)
        if isinstance(opened, Rejected):
            self._door.send(opened)
        else:
            sequence, sampler, accepted = opened
            self._door.send(accepted)  # before the work: a step must never report an unknown id
            self._work.put((sequence, sampler))

    def _begin(self, read: Submit) -> Opened | Rejected:
        return safely(read, lambda: self._inbox.begin(read, time.monotonic()))


@contextmanager
def _no_thread_dies_alone(door: FrontConnection) -> Iterator[None]:
    """End the process with its thread: it would otherwise send heartbeats, but receive nothing."""
    try:
        yield
    except Exception as e:
        door.send(_ours(e))
        os._exit(1)


class _every_percent:
    """Loading frames, one per percent: one for each tensor would be hundreds."""

    def __init__(self, door: FrontConnection) -> None:
        self._door, self._last = door, -1

    def __call__(self, progress: float) -> None:
        if (percent := int(progress * 100)) != self._last:
            self._last = percent
            self._door.send(Loading(progress))
