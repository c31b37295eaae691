"""The real engine, except that a request with `fault:NAME` has llama.cpp called as NAME says.

python -m tests.faulty_engine --door FD

Each fault is a row of the table "what kills the process": a call that our own code never makes, made on the engine's
own context between two of its steps, while other sequences are being computed.
"""

from __future__ import annotations

import argparse
import ctypes
import math
import os
import re
import socket
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import llama_cpp as lib
import numpy as np
from msgspec import structs

from service.engine import loading as load
from service.engine import serve as door
from service.engine.llama.context import Context, NoRoom
from service.engine.llama.model import Model
from service.engine.loading import Loaded
from service.engine.prompts.inbox import Inbox, Opened
from service.engine.sequences.sequence import Sequence as Generation
from service.protocol.frames import Rejected, Submit
from service.protocol.options import Options

N_SEQ, N_CTX, N_BATCH = 16, 2048, 256
N_WORDS = 3  # tokens that the suspect has generated when the fault occurs
Tokens = Sequence[tuple[int, int, int]]  # (token, position, sequence)


class Fault:
    """The faults' raw calls on the engine's model and context."""

    def __init__(self, model: Model, context: Context) -> None:
        self.model, self.context = model, context
        self.spare = context.n_ids - 1  # an unused sequence id: it would be given last

    def decode(self, rows: Tokens) -> int:
        """llama_decode of exactly these rows."""
        batch = lib.llama_batch_init(max(1, len(rows)), 0, 1)
        for i, (token, position, seq_id) in enumerate(rows):
            batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.logits[i] = token, position, 1, 1
            batch.seq_id[i][0] = seq_id
        batch.n_tokens = len(rows)
        status = int(lib.llama_decode(self.context._context, batch))
        lib.llama_batch_free(batch)
        return status

    def grammar(self, rules: str) -> Any:
        return lib.llama_sampler_init_grammar(self.model.vocab, rules.encode(), b"root")

    def sample(self, *links: Any, index: int | None = None) -> int:
        """llama_sampler_sample with exactly these links, at the last step's logits, or after a decode if it had
        none."""
        chain = lib.llama_sampler_chain_init(lib.llama_sampler_chain_default_params())
        for link in links:
            lib.llama_sampler_chain_add(chain, link)
        if index is None:
            asked = np.flatnonzero(self.context._buffer.logits[: self.context._n_computed])
            index = int(asked[-1]) if asked.size else self.decode([(5, 0, self.spare)])  # 0: its row
        token = int(lib.llama_sampler_sample(chain, self.context._context, index))
        self.context._remove(self.spare)
        return token

    # The rows of the table. The safe ones assert that they are.

    def deep_grammar(self) -> None:
        self.grammar("root ::= " + "(" * 20_000 + '"a"' + ")" * 20_000)

    def null_grammar(self) -> None:
        grammar = self.grammar("root ::= (")
        assert not grammar and grammar is not None
        self.sample(grammar, lib.llama_sampler_init_greedy())

    def piece_beyond_the_vocabulary(self) -> None:
        buffer = ctypes.create_string_buffer(64)
        lib.llama_token_to_piece(self.model.vocab, self.model.n_vocab, buffer, len(buffer), 0, False)

    def batch_too_large(self) -> None:
        self.decode([(5, i, self.spare) for i in range(N_BATCH + 1)])

    def no_logits(self) -> None:
        self.sample(lib.llama_sampler_init_greedy(), index=N_BATCH - 1)

    def nothing_selects(self) -> None:
        self.sample(lib.llama_sampler_init_top_k(5))

    def forbidden_token(self) -> None:
        (b,) = self.model.tokenize("b", add_special=False, parse_special=False)
        lib.llama_sampler_accept(self.grammar('root ::= "a"'), b)

    def early_end(self) -> None:
        lib.llama_sampler_accept(self.grammar('root ::= "a"'), self.model.eos)

    def out_of_memory(self) -> None:
        """Ends the process as ggml-cuda does; there is no GPU to ask."""
        os.abort()

    def not_ours(self) -> None:
        """An error that no request caused."""
        raise ZeroDivisionError

    def bad_token(self) -> None:
        assert self.decode([(self.model.n_vocab, 0, self.spare)]) == -1
        assert self.decode([(-1, 0, self.spare)]) == -1

    def bad_sequence(self) -> None:
        assert self.decode([(5, 0, 300)]) == -1

    def position_gap(self) -> None:
        assert self.decode([(5, 0, self.spare), (5, 7, self.spare)]) == -1

    def empty_batch(self) -> None:
        assert self.decode([]) == -1

    def no_room(self) -> None:
        status = 0
        try:
            for start in range(0, 2 * N_CTX, N_BATCH):
                Context.decode(self.context, [(self.spare, start, [5] * N_BATCH, False)])
        except NoRoom:
            status = 1
        self.context._remove(self.spare)
        assert status == 1

    def nan_temperature(self) -> None:
        links = [lib.llama_sampler_init_temp(math.nan), lib.llama_sampler_init_dist(1)]
        assert [self.model.n_vocab - 1] * 3 == [self.sample(*links) for _ in range(3)]


class Trap(Context):
    """The engine's context, in which the faults of its suspects occur."""

    def __init__(self, model: Model, context: Context) -> None:
        self.__dict__.update(context.__dict__)
        self._fault = Fault(model, self)
        self.suspects: list[tuple[Generation, str]] = []

    def decode(self, rows: Iterable[tuple[int, int, Sequence[int], int]]) -> list[int]:
        rows = list(rows)
        present = {seq_id for seq_id, *_ in rows}
        for suspect in self.suspects[:]:
            sequence, name = suspect
            if sequence.seq_id in present and sequence.n_generated >= N_WORDS:
                self.suspects.remove(suspect)
                self.strike(name)
        return super().decode(rows)

    def strike(self, name: str) -> None:
        strike: Callable[[], None] = getattr(self._fault, name)
        strike()


class Watch(Inbox):
    """The engine's inbox, which finds suspects by their prompts. `read:NAME` occurs in here, in its own thread."""

    def __init__(self, inbox: Inbox, trap: Trap) -> None:
        self.__dict__.update(inbox.__dict__)
        self._trap = trap
        self._faults: dict[str, str] = {}  # by a request's id

    def read(self, submit: Submit) -> Submit | Rejected:
        found = re.search(r"(fault|read):(\w+)", submit.messages[-1]["content"] if submit.messages else "")
        if found and found[1] == "read":
            self._trap.strike(found[2])
        elif found:
            self._faults[submit.id] = found[2]
        return super().read(submit)

    def begin(self, submit: Submit, now: float) -> Opened | Rejected:
        opened = super().begin(submit, now)
        if (fault := self._faults.pop(submit.id, None)) and not isinstance(opened, Rejected):
            self._trap.suspects.append((opened[0], fault))
        return opened


def load_with_trap(options: Options, on_progress: Callable[[float], None]) -> Loaded:
    loaded = load.load(structs.replace(options, n_ctx=N_CTX, n_seq=N_SEQ, n_batch=N_BATCH), on_progress)
    trap = Trap(loaded.model, loaded.context)
    return replace(loaded, context=trap, inbox=Watch(loaded.inbox, trap))


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--door", type=int, required=True)
    return door.serve(socket.socket(fileno=parser.parse_args().door), load_with_trap)


if __name__ == "__main__":
    sys.exit(main())
