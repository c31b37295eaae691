"""The composition root: every part is built here, once, and given plain values."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from aiohttp import web

from service import __version__
from service.admission import Admission
from service.deaths import Kind
from service.engine.protocol import Accepted, Ready, Refused, Started, Step, Submit
from service.errors import NotReady, ShuttingDown
from service.handlers.access import Access
from service.handlers.body import Bodies
from service.handlers.exchange import exchanges, on_prepare
from service.handlers.openai import OpenAIRoutes
from service.handlers.ops import OpsRoutes
from service.handlers.page import PageRoutes
from service.handlers.resuming import Resuming
from service.handlers.stream import StreamRoutes
from service.log import where
from service.metrics import Metrics
from service.registry import Limits, Streams
from service.replication import Replication
from service.settings import Settings, SettingsError
from service.store import Store
from service.supervisor import State

log = logging.getLogger("service")

WEB = Path(__file__).parent / "web"
LAG_S = 0.25  # how often the loop's lag is measured, and at most the time between two ticks
LEASE_S = 3.0  # a replica that has not been heard of for so long is dead to the others
ALONE_S = 0.3  # where no other replica can be there is none to wait for: what was left is adopted at once
LAST_WORDS_S = 2.0  # for the readers of streams that the end of the drain cut short


class EngineProcess(Protocol):
    """What the front needs of a supervisor."""

    state: State
    progress: float
    reason: str
    info: Ready | None
    digest: str  # of the model's file

    def start(self) -> None: ...
    async def stop(self) -> None: ...
    def submit(self, submit: Submit, /) -> None: ...
    def cancel(self, id: str, /) -> None: ...


class Rill:
    """The service, less its listener. As the supervisor's sink it passes on what the engine says."""

    def __init__(
        self,
        settings: Settings,
        engine: Callable[[Rill], EngineProcess],
        *,
        clock: Callable[[], float] = time.monotonic,
        lease_s: float = LEASE_S,
    ) -> None:
        self.settings = settings
        self.metrics = Metrics(version=__version__)
        self.engine = engine(self)
        self.draining = False  # whoever asks /readyz is told
        self._refuses = False  # new streams, for good
        self.hopeless = asyncio.Event()  # set: the engine can't be had, engine.reason says why
        self.admission = Admission(
            n_seq=settings.n_seq,
            max_waiting=settings.max_waiting,
            closed=self._why_closed,
            has_tenants=len(settings.api_keys) > 1,
        )
        self.streams = Streams(
            engine=self.engine,
            admission=self.admission,
            observer=self.metrics,
            clock=clock,
            limits=Limits(
                queue_timeout_s=settings.queue_timeout_s,
                heartbeat_s=settings.heartbeat_s,
                write_timeout_s=settings.write_timeout_s,
                resume_grace_s=settings.resume_grace_s,
                stream_ttl_s=settings.stream_ttl_s,
            ),
        )
        self.replication = self._replication(clock, lease_s)
        self.metrics.running.set_function(lambda: self.admission.n_running)
        self.metrics.waiting.set_function(lambda: self.admission.n_waiting)
        self.metrics.readers.set_function(lambda: self.streams.n_readers)
        self.metrics.streams.set_function(lambda: len(self.streams.live))
        self.app = self._application(clock)

    def _replication(self, clock: Callable[[], float], lease_s: float) -> Replication | None:
        settings = self.settings
        store: Store
        if url := settings.redis_url.get_secret_value():
            from service.redis_store import RedisStore  # takes a tenth of a second to import, and few need it

            try:
                if (at := urlsplit(url)).scheme != "unix" and not re.fullmatch(r"/?\d*", at.path):
                    raise ValueError("no number of a database")  # which the client would take for 0
                store = RedisStore(url, ttl_s=settings.stream_ttl_s, lease_s=lease_s)
            except Exception as e:  # the client's own words may hold the password
                raise SettingsError("RILL_REDIS_URL: it is no address like redis://host:6379/0") from e
        elif settings.store_path:
            from service.sqlite_store import SqliteStore

            store = SqliteStore(settings.store_path, ttl_s=settings.stream_ttl_s)
            lease_s = min(lease_s, ALONE_S)
        else:
            return None
        replication = Replication(
            store=store,
            streams=self.streams,
            observer=self.metrics,
            log_wait_s=settings.log_wait_ms / 1000,
            store_prompts=settings.store_prompts,
            orphan_s=settings.resume_grace_s,
            lease_s=lease_s,
            is_alone=not url,
            clock=clock,
        )
        self.metrics.not_durable.set_function(lambda: replication.writer.n_not_durable)
        return replication

    def _application(self, clock: Callable[[], float]) -> web.Application:
        settings = self.settings
        access = Access(
            api_keys=tuple(key.get_secret_value() for key in settings.api_keys),
            origins=settings.allowed_origins,
            model_names=settings.model_names,
            streams_need_key=settings.streams_need_key,
        )
        app = web.Application(
            middlewares=[exchanges(self.metrics.refused, clock), access.middleware()],
            client_max_size=settings.max_body_bytes,
        )
        app.on_response_prepare.append(on_prepare)
        app.on_response_prepare.append(access.on_prepare)
        resuming = Resuming(
            streams=self.streams, access=access, attached=lambda outcome: self.metrics.attaches.labels(outcome).inc()
        )
        bodies = Bodies(settings.max_body_bytes)
        stream = StreamRoutes(streams=self.streams, access=access, resuming=resuming, bodies=bodies)
        openai = OpenAIRoutes(
            streams=self.streams,
            access=access,
            resuming=resuming,
            loaded=lambda: self.engine.info,
            bodies=bodies,
            version=__version__,
        )
        ops = OpsRoutes(readiness=self.readiness, metrics=self.metrics.text)
        for routes in (stream, openai, ops, PageRoutes(WEB)):
            app.add_routes(routes.routes())
        app.cleanup_ctx.append(self._run)
        return app

    # The supervisor's sink.

    def ready(self, ready: Ready) -> None:
        log.info("ready", extra={"model": ready.model, "load_s": round(ready.load_s, 3)})
        if ready.no_gpu:
            log.warning("no GPU is used", extra={"reason": ready.no_gpu})
        self.metrics.ready(ready)
        if self.replication is not None:
            self.replication.leases.model = self.engine.digest
        self.streams.live.ready(ready)
        if self._refuses:
            self.admission.shut(self._why_closed)

    def deliver(self, frame: Accepted | Refused | Started | Step) -> None:
        self.streams.live.deliver(frame)

    def lost(self, stays_down: bool, kind: Kind = Kind.CRASH) -> None:
        self.metrics.lost()
        self.streams.live.lost(self._why_closed, stays_down, kind)

    # Life cycle.

    def readiness(self) -> dict[str, Any]:
        """The body of /readyz: why not, and how far the load has come."""
        state = self.engine.state
        if self.draining:
            return {"ready": False, "reason": "draining"}
        if state is State.READY:
            return {"ready": True}
        body: dict[str, Any] = {"ready": False, "reason": str(state)}
        if state is State.LOADING:
            body["progress"] = round(self.engine.progress, 3)
        if self.engine.reason:
            body["message"] = self.engine.reason
        return body

    async def drain(self, hurry: asyncio.Event) -> None:
        """Say at /readyz that it is over, and drain_notice_s later take no new streams; let the running ones finish,
        and their readers (a paced one is behind), within drain_s; hand the rest over, if there is who can take them,
        or fail them. `hurry` ends either wait."""
        self.draining = True
        log.info("draining", extra={"streams": len(self.streams.live)})
        if self.settings.drain_notice_s:
            await self._until(hurry.is_set, self.settings.drain_notice_s)
        self._refuses = True
        self.admission.shut(self._why_closed)
        await self._until(lambda: self.streams.is_idle or hurry.is_set(), self.settings.drain_s)
        if self.replication is not None:
            await self.replication.hand_over()
            self.streams.cut_followed()
        self.streams.fail_all(lambda: ShuttingDown("The service is shutting down.", retry_after_s=5.0))
        await self._until(lambda: self.streams.n_readers == 0, LAST_WORDS_S)

    async def _until(self, condition: Callable[[], bool], timeout_s: float) -> None:
        """Wait until it is true, but not longer than timeout_s. Asked at each tick: nothing here is urgent."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while not condition():  # noqa: ASYNC110  # what is waited for has no event of its own
                    await asyncio.sleep(self._tick_s)

    async def _run(self, app: web.Application) -> AsyncIterator[None]:
        self.engine.start()
        if self.replication is not None:
            self.replication.start()
        ticking = asyncio.create_task(self._tick_for_ever(), name="tick")
        yield
        ticking.cancel()
        await asyncio.gather(ticking, return_exceptions=True)
        if self.replication is not None:
            await self.replication.stop()
        await self.engine.stop()

    async def _tick_for_ever(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            before = loop.time()
            await asyncio.sleep(self._tick_s)
            self.metrics.lag.observe(max(0.0, loop.time() - before - self._tick_s))
            try:
                self.streams.tick()
            except Exception as e:  # one stream's trouble must not stop everybody's clock
                log.error("unexpected error in a tick", extra=where(e))

    @property
    def _tick_s(self) -> float:
        shortest = min(self.settings.heartbeat_s, self.settings.write_timeout_s, self.settings.queue_timeout_s)
        return min(LAG_S, shortest / 4)

    def _why_closed(self) -> NotReady | ShuttingDown:
        if self.draining:
            return ShuttingDown("The service is shutting down.", retry_after_s=5.0)
        if self.engine.state is State.LOADING and not self.engine.reason:
            return NotReady("The model is being loaded.", retry_after_s=2.0)
        return NotReady("The engine is being restarted.", retry_after_s=2.0)
