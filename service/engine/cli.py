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

from service.engine.describe import describe
from service.engine.engine import Engine
from service.engine.host import buffer_types
from service.engine.host.kv_type import AUTO
from service.engine.host.resources import ConfigurationError
from service.engine.llama.model import SPLIT_MODES, LlamaError
from service.engine.llama.options import FLASH_ATTENTION, KV_TYPES, MAX_SEQUENCES
from service.engine.loading import load
from service.engine.options import PREFIX_SCOPES, SPECULATION, Options
from service.engine.scheduling.prefill_chunks import STEP_S
from service.protocol.frames import Rejected, Submit
from service.protocol.sampling import N_SEEDS, Sampling

STARTER = Path(__file__).parent.parent / "starter" / "rill-starter-q8_0.gguf"


def run(argv: list[str]) -> int:
    """Run one of the two modes; returns the exit status."""
    args = _parser().parse_args(argv)
    options = Options(
        model=args.model,
        n_ctx=args.n_ctx,
        n_seq=args.n_seq,
        n_batch=args.n_batch,
        n_threads=args.n_threads,
        kv_type=args.kv_type,
        flash_attention=args.flash_attention,
        n_gpu_layers=args.n_gpu_layers,
        split_mode=args.split_mode,
        main_gpu=args.main_gpu,
        prefix_scope=args.prefix_scope,
        speculation=args.speculation,
        step_s=args.step_ms / 1000,
        buffer_types=args.buffer_types,
        chat_template=args.chat_template,
    )
    if args.door is not None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the front handles Ctrl-C: it drains first
        from service.engine.serve import serve

        return serve(socket.socket(fileno=args.door), options)
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
    engine = Engine(loaded.model, loaded.context, drafts=loaded.drafts)
    engine.submit(*opened[:2])
    while not engine.is_idle:
        step = engine.step()
        for _, _, text in step.deltas:
            print(text, end="", flush=True)
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
    p.add_argument("--door", type=int, help="serve the front on this socket file descriptor instead")
    p.add_argument("--model", type=Path, default=STARTER, help="a GGUF file (default: the embedded starter)")
    p.add_argument("--raw", action="store_true", help="complete the prompt as it stands, without a chat template")
    p.add_argument("--chat-template", default="", help="a template's name or a file (default: the model's own)")
    p.add_argument("--system", default="", help="a system message")
    p.add_argument("--max-tokens", type=int)
    p.add_argument("--temperature", type=float, default=0.8)
    p.add_argument("--seed", type=int, default=random.randrange(N_SEEDS))
    p.add_argument("--n-ctx", type=int, help="KV cache size in cells (tokens), shared by all sequences")
    p.add_argument("--n-seq", type=_sequences, default=32)
    p.add_argument("--n-batch", type=int, default=512)
    p.add_argument("--n-threads", type=int, help="default: the physical cores available to the process")
    p.add_argument("--kv-type", choices=(AUTO, *KV_TYPES), default=AUTO)
    p.add_argument("--flash-attention", choices=FLASH_ATTENTION, default="auto")
    p.add_argument("--n-gpu-layers", type=int, default=-1, help="-1: as many as fit, where there is a GPU")
    p.add_argument("--split-mode", choices=SPLIT_MODES, default="layer")
    p.add_argument("--main-gpu", type=int, default=0)
    p.add_argument(
        "--prefix-scope", choices=PREFIX_SCOPES, default="tenant", help="which requests share the prefix cache"
    )
    p.add_argument("--speculation", choices=SPECULATION, default="auto", help="speculative decoding where it is faster")
    p.add_argument(
        "--step-ms", type=float, default=STEP_S * 1000, help="target duration of a step with a prefill chunk"
    )
    p.add_argument("--buffer-types", default=buffer_types.AUTO, help="where the CPU keeps weights: docs/settings.md")
    return p


def _sequences(text: str) -> int:
    n = int(text)
    if not 1 <= n <= MAX_SEQUENCES:
        raise argparse.ArgumentTypeError(f"1 to {MAX_SEQUENCES}")
    return n
