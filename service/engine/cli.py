"""What `python -m service.engine` does: streams an answer to stdout; with --door it serves the front."""

from __future__ import annotations

import argparse
import os
import random
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Annotated, Literal, get_args, get_origin

from msgspec.structs import FieldInfo, fields

from service.engine.describe import describe
from service.engine.engine import Engine
from service.engine.host.resources import ConfigurationError
from service.engine.llama.constants import MAX_SEQUENCES
from service.engine.llama.model import LlamaError
from service.engine.loading import load
from service.protocol.frames import Rejected, Submit
from service.protocol.options import Options
from service.protocol.said import text_of
from service.protocol.sampling import N_SEEDS, Sampling

STARTER = Path(__file__).parent.parent / "starter" / "rill-starter-q8_0.gguf"


def run(argv: list[str]) -> int:
    """Run one of the two modes; returns the exit status."""
    args = _parser().parse_args(argv)
    if args.door is not None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the front handles Ctrl-C: it drains first
        from service.engine.serve import serve

        return serve(socket.socket(fileno=args.door))
    options = Options(**{name: getattr(args, name) for name in Options.__struct_fields__})
    try:
        return _print(args, options)
    except (LlamaError, ConfigurationError) as e:
        print(f"engine: {e}", file=sys.stderr)
        return 2 if isinstance(e, ConfigurationError) else 1
    except (BrokenPipeError, KeyboardInterrupt):
        os._exit(130)  # stdout's reader is gone, or Ctrl-C: nothing to flush, and nowhere to flush it


def _print(args: argparse.Namespace, options: Options) -> int:
    """One prompt: its answer streams to stdout, its figures go to stderr."""
    loaded = load(options, lambda _: None)
    print(describe(loaded.ready), file=sys.stderr)
    messages = [{"role": "system", "content": args.system}] if args.system else []
    submit = Submit(
        id="stdout",
        sampling=Sampling(seed=args.seed, temperature=args.temperature),
        text=args.prompt if args.raw else None,
        messages=None if args.raw else [*messages, {"role": "user", "content": args.prompt}],
        max_tokens=args.max_tokens,
    )
    opened = loaded.inbox.open(submit, time.monotonic())
    if isinstance(opened, Rejected):
        print(f"engine: {opened.message}", file=sys.stderr)
        return 1
    engine = Engine(loaded.model, loaded.context, loaded.tuning)
    engine.submit(*opened[:2])
    while not engine.is_idle:
        step = engine.step()
        for _, _, said in step.deltas:
            print(text_of(said), end="", flush=True)
        for finish in step.finished:
            speed = (finish.n_generated - 1) / finish.decode_s if finish.decode_s else 0.0
            figures = f"{finish.n_prompt} prompt tokens, {finish.n_generated} generated, {speed:.0f} tokens/s"
            print(f"\nengine: {finish.reason}; {figures}", file=sys.stderr)
    engine.close()
    return 0


def _parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(prog="python -m service.engine", description=__doc__)
    p.add_argument(
        "prompt", nargs="?", default="Tell me a story about a fox", help="the prompt; the answer goes to stdout"
    )
    p.add_argument("--door", type=int, help="serve the front on this socket file descriptor, with the options it sends")
    p.add_argument("--raw", action="store_true", help="complete the prompt as it stands, without a chat template")
    p.add_argument("--system", default="", help="a system message")
    p.add_argument("--max-tokens", type=int)
    p.add_argument("--temperature", type=float, default=0.8)
    p.add_argument("--seed", type=int, default=random.randrange(N_SEEDS))
    for option in fields(Options):
        _add(p, option)
    p.set_defaults(model=str(STARTER))
    return p


def _add(p: argparse.ArgumentParser, option: FieldInfo) -> None:
    """The flag of an option: one of a Literal's words, or a value of its type."""
    is_described = get_origin(option.type) is Annotated
    hint, meta = get_args(option.type) if is_described else (option.type, None)
    words = get_args(hint) if get_origin(hint) is Literal else None
    kind = str if words else next(iter(get_args(hint)), hint)  # of `int | None`: int
    p.add_argument(
        f"--{option.name.replace('_', '-')}",
        type=_sequences if option.name == "n_seq" else kind,
        choices=words,
        default=option.default,
        help=meta.description if meta else None,
    )


def _sequences(text: str) -> int:
    n = int(text)
    if not 1 <= n <= MAX_SEQUENCES:
        raise argparse.ArgumentTypeError(f"1 to {MAX_SEQUENCES}")
    return n
