"""The frames between front and engine, in both directions. Plain values only; both sides import this file.

codec.py encodes them: a 4-byte big-endian length and one JSON object with the frame's name as `type`. Types and bounds
hold for what is read from the wire; a frame made here is not checked.
Front -> engine: Options first, then Submit, Cancel.
Engine -> front: Build, Loading, Ready, Accepted, Rejected, Started, Step, Beat, Fatal.
Each generation is named by an `id` that the front chose; the engine never invents one.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct, field
from msgspec.structs import replace

from service.protocol.constraints import NO_CONSTRAINTS, Constraints
from service.protocol.options import Options
from service.protocol.prompting import USUAL_PROMPTING, Prompting
from service.protocol.said import Said
from service.protocol.sampling import MAX_FLOAT, CFloat, Sampling
from service.protocol.structure import Structure
from service.protocol.tooling import NO_TOOLING, Tooling

# Characters that a template adds to a message: 2,048 of one letter each are tokenized as slowly as a text of 64 KiB.
WRITTEN_ROUND = 32

MAX_LOGPROBS = 20  # OpenAI's limit

FinishReason = Literal["stop", "length", "cancelled"]
LogprobCount = Annotated[int, Meta(ge=0, le=MAX_LOGPROBS)]


class _Frame(Struct, frozen=True, tag=str.lower, forbid_unknown_fields=True):
    """Its name is its tag; an unknown field is a peer of another version."""


class Submit(_Frame, frozen=True, kw_only=True):
    """Generate. Exactly one of `messages` (chat: the model's template applies), `text` and `tokens` (raw) is given.

    `max_tokens` None means: up to the stream's limit, min(n_ctx, the model's); 0: the prompt is computed only. A
    generation that resumes after an engine's death brings the tokens that its clients have: it continues after them as
    if nothing had happened.
    """

    id: str
    sampling: Sampling
    messages: list[dict[str, str]] | None = None
    or_raw: bool = False  # where the model has no chat template, the one message is the prompt as it stands
    text: str | None = None
    tokens: list[int] | None = None
    max_tokens: Annotated[int, Meta(ge=0)] | None = None
    stop: list[str] = field(default_factory=list)
    ignore_eos: bool = False
    delivered: list[int] = field(default_factory=list)
    asked_at: CFloat | None = None  # seconds since the epoch: the date that chat templates tell; None: now
    tenant: str = ""  # of the API key: tenants get equal time, and by default share no prefixes
    # Tokens a second that its client is sent: far ahead of that it leaves steps to others.
    pace: Annotated[float, Meta(gt=0, le=MAX_FLOAT)] | None = None
    is_owed: bool = False  # another replica had admitted it: it is queued before new requests
    logprobs: LogprobCount | None = None  # of each token, and of this many of the likeliest ones; None: none wanted
    echo: bool = False  # repeat the prompt before the answer, with its log-probabilities if they are wanted
    prompting: Prompting = USUAL_PROMPTING
    constraints: Constraints = NO_CONSTRAINTS
    structure: Structure | None = None  # the form of the answer
    tooling: Tooling = NO_TOOLING

    @property
    def n_prompt_characters(self) -> int:
        """Of the prompt, 0 if it is given as ids."""
        contents = sum(map(len, (self.text or "", *(m["content"] for m in self.messages or []))))
        return contents + self.tooling.n_characters

    @property
    def n_characters(self) -> int:
        """Of what has to be read: prompt, what a template adds to each message, forms, and texts to be tokenized."""
        written = WRITTEN_ROUND * len(self.messages or [])
        biased = sum(len(key) for key, _ in self.sampling.logit_bias if isinstance(key, str))
        form = len(self.sampling.grammar) + (len(self.structure.text) if self.structure else 0)
        return self.n_prompt_characters + written + form + biased + self.constraints.n_characters

    def without_prompt(self) -> Submit:
        """A copy with nothing that the client wrote."""
        sampling = replace(self.sampling, grammar="", logit_bias=(), dry_sequence_breakers=())
        constraints = replace(self.constraints, bad_words=())
        return replace(
            self,
            messages=None,
            text=None,
            tokens=None,
            stop=[],
            delivered=[],
            sampling=sampling,
            constraints=constraints,
            structure=None,
            tooling=NO_TOOLING,
        )


class Cancel(_Frame, frozen=True):
    """Free the generation's sequence before the next step. Unknown or finished ids are ignored."""

    id: str


class Build(_Frame, frozen=True):
    """llama.cpp's build features, as it prints them. Sent before anything is computed, in case that kills it."""

    features: str


class Loading(_Frame, frozen=True):
    """The model is being loaded: `progress` 0..1."""

    progress: float


class GPU(Struct, frozen=True, forbid_unknown_fields=True):
    """One GPU in use."""

    name: str  # ggml's own, e.g. CUDA0
    description: str
    n_bytes_total: int
    n_bytes_free: int  # after the load; 0 of 0: unknown


class Ready(_Frame, frozen=True, kw_only=True):
    """The engine accepts requests from now on; what was loaded, and how."""

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
    gpu: str  # the descriptions of the GPUs in use, "" without one
    has_chat_template: bool
    load_s: float
    llama_cpp: str  # version of the binding that vendors the engine's sources
    gpus: list[GPU] = field(default_factory=list)
    no_gpu: str = ""  # why none is used although the build could use one, "" otherwise
    exact: bool = False  # a request's text is that of the same request run alone: in any batch, after any restart
    cpu: str = ""  # which of ggml's CPU variants was loaded, "native" where there is but one
    buffer_types: str = ""  # the CPU's, chosen by type of weights, as RILL_BUFFER_TYPES takes them
    chat_template: str = ""  # its source, or the name of one of llama.cpp's; "": there is none
    bos: str = ""  # how the vocabulary spells it; "": it has none
    eos: str = ""
    sampling: dict[str, float] = field(default_factory=dict)  # the model's own defaults of Sampling's fields
    weights: str = ""  # MiB of them by ggml's buffer type, and so by kernel: AMX, CPU_REPACK, CPU_Mapped, CUDA0


class Accepted(_Frame, frozen=True):
    """The prompt was templated and tokenized, and is queued."""

    id: str
    n_prompt: int
    max_tokens: int  # after clamping to the stream's limit


class Started(_Frame, frozen=True):
    """The engine computes these from now on. Sent before the first step with them, in case that kills it."""

    ids: list[str]


class Rejected(_Frame, frozen=True):
    """It can't be run, or continued. `code` is an errors.py code, e.g. context_length_exceeded.

    param: the request's field that is at fault; None: its prompt. counts: the numbers in the message.
    """

    id: str
    code: str
    message: str
    param: str | None = None
    counts: dict[str, int] = field(default_factory=dict)


class Finish(Struct, frozen=True, forbid_unknown_fields=True):
    """The generation is over and its sequence is free. Durations in seconds; the front measures TTFT."""

    id: str
    reason: FinishReason
    n_prompt: int
    n_cached: int  # prompt tokens from the prefix cache
    n_generated: int
    queue_s: float  # accepted -> first prefill chunk
    prefill_s: float  # first chunk -> first token
    decode_s: float  # first token -> last token


class Step(Struct, kw_only=True, tag="step", forbid_unknown_fields=True):
    """One step of the engine's loop: everything that it changed.

    queued:   (id, position) of waiting generations with a new position; the next to run has position 1
    prefill:  (id, n_done, n_prompt) of prompts with a chunk in this step; the first one ends the waiting
    deltas:   (id, token ids, said): the text these tokens made deliverable, in a Said with what else there is of them;
              a token with incomplete bytes, or with a possible stop string, comes with a later delta
    """

    queued: list[tuple[str, int]] = field(default_factory=list)
    prefill: list[tuple[str, int, int]] = field(default_factory=list)
    deltas: list[tuple[str, list[int], str | Said]] = field(default_factory=list)
    finished: list[Finish] = field(default_factory=list)
    n_running: int = 0
    n_waiting: int = 0
    n_batch: int = 0  # tokens in this step's llama_decode
    n_prefill: int = 0  # ... of which prompt tokens
    n_drafted: int = 0  # ... of which draft tokens
    n_accepted: int = 0  # ... accepted
    kv_used: int = 0  # cells of running generations
    kv_kept: int = 0  # cells of kept prefixes
    n_kept: int = 0  # kept prefixes
    n_preempted: int = 0  # sequences preempted in this step, for lack of cells
    step_s: float = 0.0


class Beat(_Frame, frozen=True):
    """The process lives; its loop has been busy with the current step for `busy_s` seconds (0: idle)."""

    busy_s: float


class Fatal(_Frame, frozen=True):
    """The engine can't continue and is about to exit: a model that does not load, a context that can't be had.

    ours: an error of our own code, which no request caused; the message never holds any of a request.
    """

    message: str
    is_final: bool = False  # the settings ask for what can't be had here: retrying is useless
    ours: bool = False


Frame = Options | Submit | Cancel | Build | Loading | Ready | Accepted | Rejected | Started | Step | Beat | Fatal
