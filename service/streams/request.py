"""A client's request for a generation, whatever its API."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, fields

from msgspec.structs import replace

from service.protocol.constraints import NO_CONSTRAINTS, Constraints
from service.protocol.frames import Submit
from service.protocol.prompting import USUAL_PROMPTING, Prompting
from service.protocol.sampling import N_SEEDS, Sampling
from service.protocol.structure import Structure
from service.protocol.tooling import NO_TOOLING, Tooling

# Fields that came after the first version, shown only where they are given: see GenerationRequest.__repr__.
LATER = frozenset({"logprobs", "echo", "prompting", "constraints", "structure", "tooling"})


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationRequest:
    """What is to be generated. Two equal ones request the same; `seed` None: the front chooses one."""

    sampling: Sampling
    messages: tuple[tuple[str, str], ...] | None = None  # (role, content)
    or_raw: bool = False  # without a chat template the one message is the prompt as it stands
    text: str | None = None
    tokens: tuple[int, ...] | None = None
    seed: int | None = None
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False
    logprobs: int | None = None  # of each token, and of this many of the likeliest ones
    echo: bool = False  # repeat the prompt before the answer
    model: str | None = None
    prompting: Prompting = USUAL_PROMPTING
    constraints: Constraints = NO_CONSTRAINTS
    structure: Structure | None = None
    tooling: Tooling = NO_TOOLING

    def __repr__(self) -> str:
        """What identifies it in a store (idempotency.digest): a request that an earlier version knows is shown as
        there."""
        shown = [f for f in fields(self) if f.name not in LATER or getattr(self, f.name) != f.default]
        return f"GenerationRequest({', '.join(f'{f.name}={getattr(self, f.name)!r}' for f in shown)})"

    def sampled_by(self, defaults: Mapping[str, float]) -> GenerationRequest:
        """The same with these values of Sampling's fields."""
        return dataclasses.replace(self, sampling=replace(self.sampling, **defaults)) if defaults else self

    def times(self, n: int) -> list[GenerationRequest]:
        """n requests for different answers: with a seed given, the k-th has k more."""
        return [
            dataclasses.replace(self, seed=None if self.seed is None else (self.seed + k) % N_SEEDS) for k in range(n)
        ]

    def submit(
        self, id: str, random_seed: int, asked_at: float, *, tenant: str = "", pace: float | None = None
    ) -> Submit:
        """The Submit frame, with its seed and its date (seconds since the epoch). pace: its reader's, tokens/s."""
        messages = self.messages
        return Submit(
            id=id,
            sampling=replace(self.sampling, seed=random_seed if self.seed is None else self.seed),
            messages=None if messages is None else [{"role": r, "content": c} for r, c in messages],
            or_raw=self.or_raw,
            text=self.text,
            tokens=None if self.tokens is None else list(self.tokens),
            max_tokens=self.max_tokens,
            stop=list(self.stop),
            ignore_eos=self.ignore_eos,
            logprobs=self.logprobs,
            echo=self.echo,
            structure=self.structure,
            asked_at=asked_at,
            tenant=tenant,
            pace=pace,
            prompting=self.prompting,
            constraints=self.constraints,
            tooling=self.tooling,
        )
