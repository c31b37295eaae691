"""The composition root: every part is built here, once, and given plain values."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from aiohttp import web

from service import __version__
from service.api.access import Access
from service.api.aliases import with_aliases
from service.api.application import generating_routes
from service.api.body import Bodies
from service.api.description_routes import DescriptionRoutes
from service.api.middleware import exchanges, on_prepare
from service.api.ops_routes import OpsRoutes
from service.api.page_routes import PageRoutes
from service.errors import NotReady, ShuttingDown
from service.logs import where
from service.metrics.metrics import Metrics
from service.protocol.deaths import Kind
from service.protocol.frames import Accepted, Ready, Rejected, Started, Step
from service.replication.open import AddressError, open_store
from service.replication.replicator import Replication
from service.settings import Settings, SettingsError
from service.streams.admission import Admission
from service.streams.directory import Directory, Local
from service.streams.registry import Limits, Streams
from service.supervision.engine_process import EngineProcess
from service.supervision.supervisor import State

log = logging.getLogger("service")

WEB = Path(__file__).parent / "web"
LAG_S = 0.25  # how often loop lag is measured, and at most the time between two ticks
LEASE_S = 3.0  # a replica that has not renewed its leases for this long counts as dead
LAST_WORDS_S = 2.0  # to send the last events of streams that the drain cut short


class Rill:
    """The service without its listener. As the supervisor's sink it forwards the engine's frames."""

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
        self.draining = False  # reported at /readyz
        self._refuses = False  # new streams, for good
        self.hopeless = asyncio.Event()  # set: the engine can't start, engine.reason says why
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
        self.replication = self._replication(lease_s)
        self.directory: Directory = self.replication or Local(self.streams)
        self.metrics.running.set_function(lambda: self.admission.n_running)
        self.metrics.waiting.set_function(lambda: self.admission.n_waiting)
        self.metrics.readers.set_function(lambda: self.streams.n_readers)
        self.metrics.streams.set_function(lambda: self.streams.n_made)
        self.app = self._application(clock)

    def _replication(self, lease_s: float) -> Replication | None:
        settings, url = self.settings, self.settings.redis_url.get_secret_value()
        try:
            store = open_store(url, settings.store_path, ttl_s=settings.stream_ttl_s, lease_s=lease_s)
        except AddressError as e:
            raise SettingsError(f"RILL_REDIS_URL: {e}") from e
        if store is None:
            return None
        replication = Replication(
            store=store,
            streams=self.streams,
            observer=self.metrics,
            log_wait_s=settings.log_wait_ms / 1000,
            store_prompts=settings.store_prompts,
            model=lambda: self.engine.digest,
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
        routes = generating_routes(
            directory=self.directory,
            access=access,
            bodies=Bodies(settings.max_body_bytes),
            loaded=lambda: self.engine.info,
            attached=lambda outcome: self.metrics.attaches.labels(outcome).inc(),
            version=__version__,
        )
        ops = OpsRoutes(readiness=self.readiness, metrics=self.metrics.exposition)
        others = (ops, PageRoutes(WEB), DescriptionRoutes(__version__))
        app.add_routes([*routes, *with_aliases(route for part in others for route in part.routes())])
        app.cleanup_ctx.append(self._run)
        return app

    # The supervisor's sink.

    def ready(self, ready: Ready) -> None:
        log.info("ready", extra={"model": ready.model, "load_s": round(ready.load_s, 3)})
        if ready.no_gpu:
            log.warning("no GPU is used", extra={"reason": ready.no_gpu})
        self.metrics.ready(ready)
        self.streams.live.ready(ready)
        if self._refuses:
            self.admission.shut(self._why_closed)

    def deliver(self, frame: Accepted | Rejected | Started | Step) -> None:
        self.streams.live.deliver(frame)

    def lost(self, stays_down: bool, kind: Kind = Kind.CRASH) -> None:
        self.metrics.lost()
        self.streams.live.lost(self._why_closed, stays_down, kind)

    # Life cycle.

    def readiness(self) -> dict[str, Any]:
        """The body of /readyz: why it is not ready, and load progress."""
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
        """Report draining at /readyz, and refuse new streams drain_notice_s later; let running streams and their
        readers (a paced one lags) finish within drain_s; hand over the resumable rest, if there is a store, and fail
        the others. `hurry` ends either wait."""
        self.draining = True
        log.info("draining", extra={"streams": self.streams.n_made})
        if self.settings.drain_notice_s:
            await self._until(hurry.is_set, self.settings.drain_notice_s)
        self._refuses = True
        self.admission.shut(self._why_closed)
        await self._until(lambda: self.streams.is_idle or hurry.is_set(), self.settings.drain_s)
        if self.replication is not None:
            await self.replication.hand_over()
            self.replication.remote.cut_followed()
        self.streams.fail_all(lambda: ShuttingDown("The service is shutting down.", retry_after_s=5.0))
        await self._until(lambda: self.streams.n_readers == 0, LAST_WORDS_S)

    async def _until(self, condition: Callable[[], bool], timeout_s: float) -> None:
        """Wait until condition() is true, at most timeout_s. Polled at each tick: nothing here is urgent."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while not condition():  # noqa: ASYNC110  # the condition has no event of its own
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
            except Exception as e:  # one stream's error must not stop the others' clock
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
