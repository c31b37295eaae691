"""The frames of the two doors between front and engine. Plain values only; both sides import this file.

A frame on the wire is a 4-byte big-endian length and one JSON object whose `type` names the frame (orjson).
Door 1, front -> engine: Submit, Cancel. Door 2, engine -> front: Build, Loading, Ready, Accepted, Refused, Started,
Step, Beat, Fatal. Each generation is named by an `id` that the front chose; the engine never invents one.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

import orjson

# 64 MiB: a prompt is bounded by RILL_MAX_BODY_BYTES long before; a larger length is a broken peer.
MAX_FRAME_BYTES = 64 << 20

# Characters of a template's round a message: 2,048 of one letter each take as long to read as a text of 64 KiB.
WRITTEN_ROUND = 32

FinishReason = Literal["stop", "length", "cancelled"]


N_SEEDS = 2**32 - 1  # of 32 bits; the last number means "random" to llama.cpp: such a stream could never go on


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How the next token is chosen. The defaults are llama.cpp's own; 0 or 1 switch a sampler off as there.

    `seed` is always a number in 0 .. 2**32-2: the front resolves it (2**32-1 means "random" to llama.cpp).
    """

    seed: int
    temperature: float = 0.8
    dynatemp_range: float = 0.0
    dynatemp_exponent: float = 1.0
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    typical_p: float = 1.0
    top_n_sigma: float = -1.0
    xtc_probability: float = 0.0
    xtc_threshold: float = 0.1
    repeat_penalty: float = 1.0
    repeat_last_n: int = 64
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    dry_multiplier: float = 0.0
    dry_base: float = 1.75
    dry_allowed_length: int = 2
    dry_penalty_last_n: int = 64
    dry_sequence_breakers: tuple[str, ...] = ("\n", ":", '"', "*")
    mirostat: int = 0
    mirostat_tau: float = 5.0
    mirostat_eta: float = 0.1
    adaptive_target: float = -1.0  # negative: off
    adaptive_decay: float = 0.9
    logit_bias: tuple[tuple[int, float | None], ...] = ()  # (token, what its logit gains); None: it never comes
    grammar: str = ""  # GBNF; "": any text

    @classmethod
    def of(cls, values: dict[str, Any]) -> Sampling:
        """From what JSON made of its fields. Raises TypeError for one that is none of them."""
        return cls(**{name: _frozen(value) for name, value in values.items()})


@dataclass(frozen=True, slots=True, kw_only=True)
class Submit:
    """Generate. Exactly one of `messages` (chat: the model's template applies), `text` and `tokens` (raw) is given.

    `max_tokens` None means: up to the stream's limit, min(n_ctx, the model's). A generation that goes on after an
    engine's death brings the tokens that its readers have: it continues behind them as if nothing had happened.
    """

    id: str
    sampling: Sampling
    messages: list[dict[str, str]] | None = None
    or_raw: bool = False  # where the model has no chat template, the one message is the prompt as it stands
    text: str | None = None
    tokens: list[int] | None = None
    max_tokens: int | None = None
    stop: list[str] = field(default_factory=list)
    ignore_eos: bool = False
    delivered: list[int] = field(default_factory=list)
    asked_at: float | None = None  # seconds since the epoch: the date that chat templates tell; None: now
    tenant: str = ""  # whose request it is: tenants get equal time, and share prompts' beginnings with themselves only
    pace: float | None = None  # tokens a second that its reader is sent: far ahead of him it lets others have the step
    is_owed: bool = False  # another replica had admitted it: it comes before who came here

    @property
    def n_prompt_characters(self) -> int:
        """Of the prompt, unless it is ids."""
        return sum(map(len, (self.text or "", *(m["content"] for m in self.messages or []))))

    @property
    def n_characters(self) -> int:
        """Of what has to be read: prompt, what a template writes round each message, and grammar."""
        written = WRITTEN_ROUND * len(self.messages or [])
        return self.n_prompt_characters + written + len(self.sampling.grammar)

    def without_prompt(self) -> Submit:
        """Nothing of what somebody wrote is in it any more."""
        sampling = replace(self.sampling, grammar="", logit_bias=(), dry_sequence_breakers=())
        return replace(self, messages=None, text=None, tokens=None, stop=[], delivered=[], sampling=sampling)


@dataclass(frozen=True, slots=True)
class Cancel:
    """Free the generation's sequence before the next step. Unknown or finished ids are ignored."""

    id: str


@dataclass(frozen=True, slots=True)
class Build:
    """What llama.cpp was built for, in its own words. Sent before anything is computed: should that kill it."""

    features: str


@dataclass(frozen=True, slots=True)
class Loading:
    """The model is being read: `progress` 0..1."""

    progress: float


@dataclass(frozen=True, slots=True)
class GPU:
    """One that takes part in the work."""

    name: str  # ggml's own, e.g. CUDA0
    description: str
    n_bytes_total: int
    n_bytes_free: int  # after the load; 0 of 0: it does not tell


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """The engine takes work from now on; what was loaded, and how."""

    model: str  # general.name of the GGUF, or its file's stem
    description: str  # llama.cpp's own, e.g. "llama 4M Q8_0"
    n_params: int
    model_bytes: int
    n_vocab: int
    n_ctx: int  # KV budget in tokens, all sequences together
    n_ctx_seq: int  # one stream's limit: min(n_ctx, the model's training context)
    n_seq: int
    n_batch: int
    n_threads: int
    kv_type: str  # the one chosen, where that was left to the engine
    kv_bytes: int
    flash_attention: str
    n_layers: int  # as llama.cpp counts what can be offloaded: the blocks and the output layer
    n_layers_offloaded: int
    gpu: str  # the descriptions of the GPUs that take part, "" without one
    has_chat_template: bool
    load_s: float
    llama_cpp: str  # version of the binding that vendors the engine's sources
    draft_model: str = ""  # general.name of the one that guesses, "" without one
    gpus: list[GPU] = field(default_factory=list)
    no_gpu: str = ""  # why none takes part although the build could use one, "" otherwise
    exact: bool = False  # a request's text is that of the same request run alone: in any batch, after any restart
    cpu: str = ""  # which of ggml's CPU variants was loaded, "native" where there is but one
    buffer_types: str = ""  # the CPU's, chosen by type of weights, as RILL_BUFFER_TYPES takes them
    weights: str = ""  # MiB of them by ggml's buffer type, and so by product: AMX, CPU_REPACK, CPU_Mapped, CUDA0


@dataclass(frozen=True, slots=True)
class Accepted:
    """The prompt was templated and tokenized and waits for its turn."""

    id: str
    n_prompt: int
    max_tokens: int  # after clamping to the stream's limit


@dataclass(frozen=True, slots=True)
class Started:
    """The engine computes these from now on. Sent before the first step with them: should that one kill it."""

    ids: list[str]


@dataclass(frozen=True, slots=True)
class Refused:
    """It can't be run, or run on. `code` is an errors.py code, e.g. context_length_exceeded.

    param: the request's field that is to blame; None: its prompt. counts: what the message says in numbers.
    """

    id: str
    code: str
    message: str
    param: str | None = None
    counts: dict[str, int] = field(default_factory=dict)


def too_long(n_prompt: int, n_ctx: int, *, at_least: bool = False) -> tuple[str, dict[str, int]]:
    """Message and counts of context_length_exceeded. Clients look for the words of OpenAI's, or for llama-server's
    counts. at_least: the prompt has so many tokens, or more."""
    n = f"at least {n_prompt}" if at_least else n_prompt
    message = f"This model's maximum context length is {n_ctx} tokens, the answer included; the prompt has {n}."
    return message, {"n_prompt_tokens": n_prompt, "n_ctx": n_ctx}


@dataclass(frozen=True, slots=True)
class Finish:
    """The generation is over and its sequence is free. Durations in seconds; TTFT is the front's to measure."""

    id: str
    reason: FinishReason
    n_prompt: int
    n_cached: int  # prompt tokens not computed again
    n_generated: int
    queue_s: float  # accepted -> first prefill slice
    prefill_s: float  # first slice -> first token
    decode_s: float  # first token -> last token


@dataclass(slots=True, kw_only=True)
class Step:
    """One turn of the engine's loop: everything that it changed.

    queued:   (id, position) of waiting generations whose place changed; the next to run has position 1
    prefill:  (id, n_done, n_prompt) of prompts that this step read a slice of; the first one ends the waiting
    deltas:   (id, token ids, text): the text these tokens made deliverable; a token whose bytes or stop string are
              not complete yet comes with a later delta
    """

    queued: list[tuple[str, int]] = field(default_factory=list)
    prefill: list[tuple[str, int, int]] = field(default_factory=list)
    deltas: list[tuple[str, list[int], str]] = field(default_factory=list)
    finished: list[Finish] = field(default_factory=list)
    n_running: int = 0
    n_waiting: int = 0
    n_batch: int = 0  # tokens in this step's llama_decode
    n_prefill: int = 0  # ... of which prompt tokens
    n_drafted: int = 0  # ... of which were only guessed to come next
    n_accepted: int = 0  # ... and came
    kv_used: int = 0  # cells of running generations
    kv_kept: int = 0  # cells of ended ones, kept for prompts that begin alike
    n_kept: int = 0  # ended ones that are kept
    n_preempted: int = 0  # sequences put back to waiting in this step, for want of cells
    step_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Beat:
    """The process lives; its loop has been busy with the present step for `busy_s` seconds (0: idle)."""

    busy_s: float


@dataclass(frozen=True, slots=True)
class Fatal:
    """The engine can't go on and is about to exit: a model that does not load, a context that can't be had.

    ours: an error of our own code, which no request is to be blamed for; the message never holds any of a request.
    """

    message: str
    is_final: bool = False  # the settings ask for what can't be had here: to try again is no use
    ours: bool = False


Frame = Submit | Cancel | Build | Loading | Ready | Accepted | Refused | Started | Step | Beat | Fatal

_TYPES: dict[str, type[Any]] = {cls.__name__.lower(): cls for cls in get_args(Frame)}


class ProtocolError(Exception):
    """The other side sent what is no frame."""


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


def encode(frame: Frame) -> bytes:
    """A frame's bytes on the wire, length first."""
    # orjson writes tuples and the dataclasses within by itself; asdict would copy each token id.
    values = {name: getattr(frame, name) for name in type(frame).__slots__}
    body = orjson.dumps({"type": type(frame).__name__.lower(), **values})
    return struct.pack(">I", len(body)) + body


def decode(body: bytes | bytearray | memoryview) -> Frame:
    """The frame that a body (without its length) holds. Raises ProtocolError."""
    try:
        values = orjson.loads(body)
        cls = _TYPES[values.pop("type")]
        if cls is Submit:
            values["sampling"] = Sampling.of(values["sampling"])
        elif cls is Ready:
            values["gpus"] = [GPU(**gpu) for gpu in values.get("gpus", [])]
        elif cls is Step:
            values["finished"] = [Finish(**f) for f in values["finished"]]
        frame: Frame = cls(**values)
    except (ValueError, KeyError, TypeError, AttributeError) as e:
        raise ProtocolError(f"not a frame: {e}") from e
    return frame


class Decoder:
    """Cuts a byte stream into frames, wherever the reads happened to end."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[Frame]:
        """The frames completed by `data`, in order. Raises ProtocolError."""
        self._buffer += data
        frames: list[Frame] = []
        start = 0
        while len(self._buffer) - start >= 4:
            (size,) = struct.unpack_from(">I", self._buffer, start)
            if size > MAX_FRAME_BYTES:
                raise ProtocolError(f"a frame of {size} bytes")
            if len(self._buffer) - start - 4 < size:
                break
            frames.append(decode(bytes(self._buffer[start + 4 : start + 4 + size])))
            start += 4 + size
        del self._buffer[:start]
        return frames
