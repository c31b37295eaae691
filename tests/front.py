"""The whole front as a process with a scripted engine: python tests/front.py [SCRIPT.py] [its arguments]."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from service.__main__ import main
from service.app import Rill
from service.protocol.options import Options
from service.settings import Settings
from service.supervision.supervisor import Supervisor

SCRIPT = str(Path(__file__).parent / "scripted_engine.py")  # the default script


def engine(values: Settings, sink: Rill) -> Supervisor:
    async def prepare() -> Options:
        return Options(model="")

    return Supervisor(
        command=[sys.executable, *([] if sys.argv[1].endswith(".py") else [SCRIPT]), *sys.argv[1:]],
        prepare=prepare,
        sink=sink,
        timeout_s=values.engine_timeout_s,
        hopeless=lambda _: sink.hopeless.set(),
    )


if __name__ == "__main__":
    sys.exit(main([], engine))
