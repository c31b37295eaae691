"""Makes a Submit frame a Sequence with its sampler, or rejects it before it costs a step: template, tokens, limits."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from functools import partial

from service.engine.llama.deep_stack import SHALLOW_BYTES
from service.engine.llama.model import LlamaError, Model
from service.engine.prompts.reading import Reading, not_followed
from service.engine.prompts.template import Prompts
from service.engine.prompts.validation import misfit
from service.engine.sampling.chain import is_rebuildable
from service.engine.sampling.forbidden import Forbidden
from service.engine.sampling.gbnf_parser import GrammarError
from service.engine.sampling.logprobs import Ranked, named
from service.engine.sampling.sampler import check_grammar, make
from service.engine.sampling.structured import AnySampler
from service.engine.sampling.structures import Structures
from service.engine.sequences.echo import Echo
from service.engine.sequences.sequence import Sequence
from service.engine.sequences.text import Text
from service.protocol.context_length import too_long
from service.protocol.frames import Accepted, Rejected, Submit

# Log-probabilities of one prompt, each token's own and the likeliest ones': its first event has them all, and the front
# encodes it while no other stream is sent anything (measured: 55 ms).
MAX_ECHOED = 1 << 14
# A sequence ready to be scheduled, its sampler, and the frame for the front.
Opened = tuple[Sequence, AnySampler, Accepted]


class Inbox:
    """Safe while the engine's thread runs: it uses the vocabulary only."""

    def __init__(self, model: Model, *, n_ctx_seq: int, is_shared: bool = False, chat_template: str = "") -> None:
        """n_ctx_seq: one stream's limit, prompt and answer together. is_shared: tenants share prefixes with each other.
        chat_template: RILL_CHAT_TEMPLATE; raises ConfigurationError where it can't be used."""
        self._model, self._is_shared = model, is_shared
        self.n_ctx_seq = n_ctx_seq
        prompts = Prompts(model, chat_template)
        self.template = prompts.template
        self._structures = Structures(model)
        self._read = Reading(prompts, partial(check_grammar, model), self._structures.prove)

    def open(self, submit: Submit, now: float) -> Opened | Rejected:
        """The request as the engine needs it, or its rejection; max_tokens is clamped to the stream's limit."""
        read = misfit(submit) or self.refuse(submit) or self.read(submit)
        return read if isinstance(read, Rejected) else self.begin(read, now)

    def refuse(self, submit: Submit) -> Rejected | None:
        """Reject a request for errors found without tokenizing; None: none. Its values are valid: see validation."""
        tokens = self._kept(submit)
        if len(tokens) >= self.n_ctx_seq:  # before each one is checked
            return self._too_long(submit, len(tokens))
        try:
            self._check_ids(tokens)
        except LlamaError as e:
            return Rejected(submit.id, "invalid_prompt", str(e))
        return self._surely_too_long(submit)

    def read(self, submit: Submit) -> Submit | Rejected:
        """Tokenize a request that `refuse` has passed."""
        return self._read(submit)

    def is_quick(self, submit: Submit) -> bool:
        """Whether it is tokenized in milliseconds, whatever its text: line feeds, SentencePiece's worst case, take
        15 ms. A structure is, once it is compiled."""
        is_new = submit.structure is not None and not self._structures.knows(submit.structure)
        return not is_new and not submit.sampling.grammar and submit.n_characters <= SHALLOW_BYTES

    def compile(self, submit: Submit) -> Submit | Rejected:
        """Compile the structure of a request that the preparer has passed, so that `begin` does not take long."""
        try:
            if submit.structure:
                self._structures.compile(submit.structure)
        except GrammarError as e:
            return not_followed(submit, e)
        return submit

    def begin(self, submit: Submit, now: float) -> Opened | Rejected:
        """A tokenized request as the engine needs it."""
        if refused := self._of_no_vocabulary(submit):
            return refused
        tokens, constraints = self._kept(submit), submit.constraints
        if not tokens:
            return Rejected(submit.id, "invalid_prompt", "The prompt has no tokens.")
        room = self.n_ctx_seq - len(tokens)
        if room < 1:
            return self._too_long(submit, len(tokens))
        if submit.echo and (refused := self._too_much(submit)):
            return refused
        max_tokens = room if submit.max_tokens is None else min(submit.max_tokens, room)
        sequence = Sequence(
            id=submit.id,
            tokens=tokens,
            n_prompt=len(tokens),
            max_tokens=max_tokens,
            text=Text(
                submit.stop,
                includes_stop=constraints.include_stop_str_in_output,
                n_exempt=constraints.min_tokens,
            ),
            stop_tokens=self._stop_tokens(submit),
            shows_special=not constraints.skip_special_tokens,
            max_s=constraints.t_max_predict_ms / 1000,
            tenant=submit.tenant,
            scope="" if self._is_shared else submit.tenant,
            takes_cached=submit.prompting.cache_prompt,
            pace=submit.pace,
            n_logprobs=submit.logprobs,
            is_owed=submit.is_owed,
            accepted_at=now,
        )
        if submit.echo:
            self._echo(sequence, submit)
        try:
            piece = self._model.spelled if sequence.shows_special else self._model.piece
            sequence.go_on(submit.delivered, [piece(token) for token in submit.delivered])
        except LlamaError as e:
            return Rejected(submit.id, "invalid_prompt", str(e))
        if submit.delivered and sequence.finish_reason is None and not is_rebuildable(submit.sampling):
            message = "The engine died, and mirostat and adaptive-p can't be continued by a new one; start again."
            return Rejected(submit.id, "not_resumable", message)
        sampler = self._sampler(submit, sequence.stop_tokens.keys())
        if isinstance(sampler, Rejected):
            return sampler
        return sequence, sampler, Accepted(submit.id, sequence.n_prompt, max_tokens)

    def _echo(self, sequence: Sequence, submit: Submit) -> None:
        """Have it repeat its prompt, unless it has done so with its first tokens."""
        echo = Echo(map(self._model.piece, sequence.tokens), submit.text)
        sequence.text.n_characters = len(echo.text)
        if not submit.delivered:
            sequence.echo = echo
            if submit.logprobs is not None:  # the first token has none: no logits come before it
                sequence.held_logprobs.append(named(self._model, Ranked(sequence.tokens[0], None, ()), 0))
                sequence.n_unscored = sequence.n_prompt - 1

    @staticmethod
    def _too_much(submit: Submit) -> Rejected | None:
        """Refuse more log-probabilities of a prompt than the front can take at once."""
        n = 0 if submit.logprobs is None else len(submit.tokens or []) * (1 + submit.logprobs)
        if n <= MAX_ECHOED:
            return None
        message = f"echo: {n} log-probabilities of the prompt are too many; at most {MAX_ECHOED} are possible."
        return Rejected(submit.id, "invalid_request", message, "echo")

    def _of_no_vocabulary(self, submit: Submit) -> Rejected | None:
        """Refuse ids that are no token of the model, by their field's name; None: there are none."""
        sampling, constraints = submit.sampling, submit.constraints
        fields = {
            "logit_bias": [token for token, _ in sampling.logit_bias if isinstance(token, int)],
            "bad_words": [token for word in constraints.bad_words if not isinstance(word, str) for token in word],
            "stop_token_ids": constraints.stop_token_ids,
        }
        for name, ids in fields.items():
            try:
                self._check_ids(ids)
            except LlamaError as e:
                return Rejected(submit.id, "invalid_request", f"{name}: {e}", name)
        return None

    def _kept(self, submit: Submit) -> list[int]:
        """The prompt's tokens: all, or the last ones of a prompt that is to be truncated."""
        n, tokens = submit.prompting.truncate_prompt_tokens, submit.tokens or []
        if n is None:
            return tokens
        answer = min(submit.max_tokens or 1, self.n_ctx_seq // 2)
        return tokens[-(n if n > 0 else self.n_ctx_seq - answer) :]

    def _stop_tokens(self, submit: Submit) -> dict[int, bytes]:
        """The tokens that the request names and control tokens that its stop strings spell, and what each adds to the
        text."""
        found = {token: self._model.piece(token) for token in submit.constraints.stop_token_ids}
        found |= {token: stop.encode() for stop in submit.stop for token in self._model.control_ids.get(stop, ())}
        return found if submit.constraints.include_stop_str_in_output else dict.fromkeys(found, b"")

    def _sampler(self, submit: Submit, stop_tokens: Collection[int]) -> AnySampler | Rejected:
        words = [word for word in submit.constraints.bad_words if word and not isinstance(word, str)]
        forbidden = Forbidden(
            ends=self._model.end_tokens.union(stop_tokens), min_tokens=submit.constraints.min_tokens, words=words
        )
        banned = forbidden.ever.union(token for token, bias in submit.sampling.logit_bias if bias is None)
        if len(banned | (self._model.end_tokens if submit.ignore_eos else set())) == self._model.n_vocab:
            named = "bad_words" if words else "logit_bias"
            return Rejected(submit.id, "invalid_request", f"{named}: it leaves no token to sample", named)
        refused = self.compile(submit)
        if isinstance(refused, Rejected):
            return refused
        try:
            sampler = make(self._model, submit.sampling, ignore_eos=submit.ignore_eos, forbidden=forbidden)
            if submit.structure is None:
                return sampler
            # Control tokens are no part of the text, whatever a grammar says.
            unused = forbidden.always.union(self._model.control_tokens - self._model.end_tokens)
            unused |= {token for token, bias in submit.sampling.logit_bias if bias is None and isinstance(token, int)}
            unused |= self._model.end_tokens if submit.ignore_eos else set()
            return self._structures.sampler(submit.structure, sampler, unused)
        except GrammarError as e:
            return not_followed(submit, e)

    def _surely_too_long(self, submit: Submit) -> Rejected | None:
        """Refuse by size alone what can't fit: some tokenizers take minutes for a megabyte."""
        n_bytes = submit.n_prompt_characters  # each is a byte at least
        if n_bytes <= SHALLOW_BYTES or submit.prompting.truncate_prompt_tokens is not None:
            return None
        at_least = n_bytes // self._model.longest_piece
        return self._too_long(submit, at_least, at_least=True) if at_least >= self.n_ctx_seq else None

    def _too_long(self, submit: Submit, n_tokens: int, *, at_least: bool = False) -> Rejected:
        message, counts = too_long(n_tokens, self.n_ctx_seq, at_least=at_least)
        return Rejected(submit.id, "context_length_exceeded", message, counts=counts)

    def _check_ids(self, tokens: Iterable[int]) -> None:
        if bad := [t for t in tokens if not 0 <= t < self._model.n_vocab]:
            raise LlamaError(f"no token {bad[0]} in a vocabulary of {self._model.n_vocab}")
