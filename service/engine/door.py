"""The engine's end of the two doors: one thread hears the front, one reads what is quick to read, one has the rest
prepared, one beats, the loop steps and reports."""

from __future__ import annotations

import os
import queue
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress

from .budget import ConfigurationError
from .deaths import by_error
from .describe import describe
from .engine import Engine
from .inbox import Inbox, Opened
from .llama import LlamaError, features
from .load import Loaded, load
from .options import Options
from .preparation import Preparation, Preparer, command
from .prompt_budget import PromptBudget
from .protocol import (
    Beat,
    Build,
    Cancel,
    Decoder,
    Fatal,
    Frame,
    Loading,
    ProtocolError,
    Refused,
    Started,
    Submit,
    encode,
)
from .reading import safely
from .sampler import Argmax, Sampler
from .sequence import Sequence
from .threads import PERIOD_S, Threads

SETTLED_S = 5.0  # streams that wait for a restarted engine have the cores to themselves for so long
BEAT_S = 0.5  # the front gives up after RILL_ENGINE_TIMEOUT_S without one

# What the reader hands to the loop: a sequence to run, or the id of one to cancel.
Work = tuple[Sequence, Sampler | Argmax] | str


class Door:
    """Frames out, from any thread; `busy_since` is the loop's word on when its present step began."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._decoder = Decoder()
        self._lock = threading.Lock()
        self.busy_since: float | None = None

    def send(self, frame: Frame) -> None:
        """Write one frame. When the front is gone so is the reason to live: the process ends."""
        try:
            with self._lock:
                self._socket.sendall(encode(frame))
        except OSError:
            os._exit(0)

    def receive(self) -> list[Frame]:
        """The next frames; ends the process at the end of the door."""
        while True:
            try:
                data = self._socket.recv(1 << 18)
            except OSError:
                data = b""
            if not data:
                os._exit(0)
            if frames := self._decoder.feed(data):
                return frames

    def beat(self) -> None:
        """Tell for ever that the process lives and how long its step has been going on."""
        while True:
            since = self.busy_since
            self.send(Beat(0.0 if since is None else time.monotonic() - since))
            time.sleep(BEAT_S)


Load = Callable[[Options, Callable[[float], None]], Loaded]


def serve(sock: socket.socket, options: Options, load: Load = load) -> int:
    """Load, then answer the front until it leaves. Returns an exit status; Fatal was sent when it is not 0."""
    door = Door(sock)
    threading.Thread(target=door.beat, name="beat", daemon=True).start()
    try:
        _serve(door, options, load)
    except ConfigurationError as e:
        door.send(Fatal(str(e), is_final=True))
        return 2
    except LlamaError as e:
        door.send(Fatal(str(e)))
    except Exception as e:  # of our own code: the front has to know that, and what it was
        door.send(Fatal(by_error(e), ours=True))
    return 1


def _serve(door: Door, options: Options, load: Load) -> None:
    """Ends only by an exception or with the process."""
    door.send(Build(features()))
    loaded = load(options, _every_percent(door))
    print(describe(loaded.ready), file=sys.stderr, flush=True)
    door.send(loaded.ready)
    work: queue.SimpleQueue[Work] = queue.SimpleQueue()
    preparer = Preparer(command(options.model, loaded.inbox.n_ctx_seq, options.chat_template))
    hearing = Hearing(door, loaded.inbox, work, preparer)
    for run in (hearing.run, hearing.read, hearing.prepare):
        threading.Thread(target=run, name=run.__name__, daemon=True).start()
    # Who sets the number of threads gets it; otherwise they make room for neighbours.
    threads = None if options.n_threads else Threads(loaded.ready.n_threads, helper=preparer)
    engine = Engine(
        loaded.model,
        loaded.context,
        slices=loaded.slices,
        most_kept_cells=loaded.most_kept_cells,
        shares=options.prefix_scope != "off",
        drafts=loaded.drafts,
        threads=threads,
        n_threads=loaded.ready.n_threads,
        started=lambda ids: door.send(Started(ids)),
        refused=door.send,
    )
    with closing(engine):
        _run(engine, door, work)


def _run(engine: Engine, door: Door, work: queue.SimpleQueue[Work]) -> None:
    """Step while there is something to do. Ends only by an exception or with the process."""
    while True:
        first = [_next(work, engine.rest)] if engine.is_idle else []
        door.busy_since = time.monotonic()  # to take one may be long, too: a grammar reads all that was delivered
        for new in first:
            _take(engine, door, new)
        while not work.empty():
            _take(engine, door, work.get())
        step = engine.step()
        door.busy_since = None
        door.send(step)


def _next(work: queue.SimpleQueue[Work], rest: Callable[[], None]) -> Work:
    """What comes next, once it comes; rests until then."""
    while True:
        with suppress(queue.Empty):
            return work.get(timeout=PERIOD_S)
        rest()


def _take(engine: Engine, door: Door, work: Work) -> None:
    if isinstance(work, str):
        engine.cancel(work)
        return
    sequence, sampler = work
    try:
        engine.submit(sequence, sampler)
    except LlamaError as e:
        sampler.close()
        door.send(Refused(sequence.id, "invalid_request", str(e)))


class Hearing:
    """What the front says, taken to the loop. A cancel is heard at once, whatever is being read."""

    def __init__(self, door: Door, inbox: Inbox, work: queue.SimpleQueue[Work], preparer: Preparer) -> None:
        self._door, self._inbox, self._work, self._preparer = door, inbox, work, preparer
        self._quick = Preparation(inbox.read, self._prepared)
        self._slow = Preparation(preparer.ask, self._prepared, PromptBudget(preparer.cpu_s))

    def run(self) -> None:
        """Door 1, beside the running step, so that a refusal needs no turn of the loop."""
        with _no_thread_dies_alone(self._door):
            while True:
                for frame in self._door.receive():
                    if isinstance(frame, Submit):
                        self._submit(frame)
                    elif isinstance(frame, Cancel) and not self._forget(frame.id):
                        self._work.put(frame.id)

    def read(self) -> None:
        """Read what is quick to read, by turns of their tenants: who asks and leaves a hundred times a second keeps
        nobody waiting."""
        with _no_thread_dies_alone(self._door):
            self._quick.run()

    def prepare(self) -> None:
        """Have read what may take long."""
        with _no_thread_dies_alone(self._door):
            self._slow.wait(SETTLED_S)
            self._preparer.start()
            self._slow.run()

    def _submit(self, submit: Submit) -> None:
        if refused := safely(submit, lambda: self._inbox.refuse(submit)):
            self._door.send(refused)
        elif self._inbox.is_quick(submit):
            self._quick.put(submit)
        else:
            self._slow.put(submit)

    def _forget(self, id: str) -> bool:
        """False: it has been read."""
        return self._quick.cancel(id) or self._slow.cancel(id)

    def _prepared(self, read: Submit | Refused) -> None:
        opened = read if isinstance(read, Refused) else self._begin(read)
        if isinstance(opened, Refused):
            self._door.send(opened)
        else:
            sequence, sampler, accepted = opened
            self._door.send(accepted)  # before the work: a step must never report an unknown id
            self._work.put((sequence, sampler))

    def _begin(self, read: Submit) -> Opened | Refused:
        return safely(read, lambda: self._inbox.begin(read, time.monotonic()))


@contextmanager
def _no_thread_dies_alone(door: Door) -> Iterator[None]:
    """Without one of its threads the process would beat on, deaf."""
    try:
        yield
    except Exception as e:
        door.send(Fatal(str(e) if isinstance(e, ProtocolError) else by_error(e), ours=True))
        os._exit(1)


class _every_percent:
    """Loading frames, one a percent: a callback for each tensor would be hundreds."""

    def __init__(self, door: Door) -> None:
        self._door, self._last = door, -1

    def __call__(self, progress: float) -> None:
        if (percent := int(progress * 100)) != self._last:
            self._last = percent
            self._door.send(Loading(progress))
