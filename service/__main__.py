"""`python -m service`: settings, logs, the event loop, signals. Exits 0 after a drain, 2 for an invalid setting, even
one only the engine detects."""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import resource
import signal
import sys
from collections.abc import Callable

import uvloop

from service import logs as log
from service import settings
from service.api.address import banner, is_private
from service.api.server import listen
from service.api.stay import stay
from service.app import Rill
from service.aside import run_aside
from service.protocol.options import Options
from service.replication.store import StoreDown
from service.settings import Settings
from service.supervision import model_file as model
from service.supervision.engine_process import EngineProcess
from service.supervision.supervisor import Supervisor

# "Tell me a story about a fox": with the words joined by +, a shell and curl need no more quoting.
EXAMPLE = "/stream?prompt=Tell+me+a+story+about+a+fox"
PORT: int = Settings.model_fields["port"].default  # of the health check, when the setting itself may be invalid
OPEN = {"set": "RILL_API_KEYS, or with compose RILL_PUBLISH=127.0.0.1:8080"}


def main(arguments: list[str], engine: Callable[[Settings, Rill], EngineProcess] | None = None) -> int:
    """Run the service until SIGTERM or SIGINT; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m service", description="Its settings are environment variables.")
    parser.add_argument(
        "--stay-s",
        type=float,
        default=0.0,
        help="if the settings are invalid, keep reporting that at /readyz for this many seconds",
    )
    stay_s = parser.parse_args(arguments).stay_s
    try:
        return run(engine or supervisor)
    except (settings.SettingsError, model.ModelError) as e:
        print(f"rill: {e}", file=sys.stderr, flush=True)
        if stay_s:
            asyncio.run(stay(str(e), stay_s, port=PORT))
        return 2


def run(engine: Callable[[Settings, Rill], EngineProcess]) -> int:
    """Run the service on this engine. Raises one-line SettingsError or ModelError, also for errors found later."""
    values = settings.read()
    model.check(values.model)
    log.set_up(values.log_level)
    if unknown := settings.unknown():
        logging.getLogger("service").warning("unknown settings", extra={"names": unknown})
    for sentence in settings.removed():
        logging.getLogger("service").warning(sentence)
    allow_many_connections()
    collect_seldom()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(serve(values, engine))


def allow_many_connections() -> None:
    """Raise the open-file limit to its maximum: a shell's 1,024 fails at a thousand streams."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def collect_seldom() -> None:
    """Run the cycle collector rarely. A step's frame becomes short-lived lists, which the default (700, 10, 10) takes
    for growth: every few steps it scans all streams' event logs: 37 ms at 1,000 streams, 220 ms at 10,000."""
    gc.set_threshold(50_000, 20, 20)


async def serve(values: Settings, engine: Callable[[Settings, Rill], EngineProcess]) -> int:
    """Listen, print the URL, drain at the first signal; a second one ends the drain. Raises SettingsError."""
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(log.on_loop_error)
    try:
        rill = Rill(values, lambda sink: engine(values, sink))
    except StoreDown as e:
        raise settings.SettingsError(f"RILL_STORE_PATH: {e}") from None
    try:
        runner, url = await listen(rill.app, values.host, values.port, silence_s=values.write_timeout_s)
    except OSError as e:
        raise settings.SettingsError(f"can't listen on {values.host}:{values.port}: {e.strerror}") from None
    first, second = asyncio.Event(), asyncio.Event()

    def on_signal() -> None:
        (second if first.is_set() else first).set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    print(banner(url, values.publish, EXAMPLE), flush=True)
    if not values.api_keys and not is_private(values.publish, values.host):
        logging.getLogger("service").warning("open to any client that can reach it", extra=OPEN)
    ends = [asyncio.create_task(event.wait()) for event in (first, rill.hopeless)]
    await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    for waiting in ends:
        waiting.cancel()
    if rill.hopeless.is_set():
        await runner.cleanup()
        raise settings.SettingsError(rill.engine.reason)
    await rill.drain(hurry=second)
    await runner.cleanup()
    logging.getLogger("service").info("stopped")
    return 0


def supervisor(values: Settings, sink: Rill) -> Supervisor:
    """The supervisor, with the engine's options from the settings of the same names."""

    async def prepare() -> Options:
        def progress(share: float) -> None:
            engine.progress = share

        path = await run_aside(lambda: model.obtain(values.model, values.model_sha256, progress))
        if values.redis_url.get_secret_value() or values.store_path:  # replicas, or a later run, resume its streams
            digest = values.model_sha256.lower() or await run_aside(lambda: model.digest(path))
            engine.digest = model.addressed(digest, values.chat_template)
        options = {name: getattr(values, name) for name in Options.__struct_fields__}
        return Options(**options | {"model": str(path)})

    engine = Supervisor(
        command=[sys.executable, "-m", "service.engine"],
        prepare=prepare,
        sink=sink,
        timeout_s=values.engine_timeout_s,
        step_timeout_s=values.step_timeout_s,
        load_timeout_s=values.load_timeout_s,
        hopeless=lambda _: sink.hopeless.set(),
    )
    return engine


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
