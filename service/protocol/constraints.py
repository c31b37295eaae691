"""What an answer contains and where it may end, beyond `max_tokens` and stop strings: plain values.

A field at its default is not encoded: what an earlier version knows stays as it wrote it.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

NonNegative = Annotated[int, Meta(ge=0, lt=2**31)]


class Constraints(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """By vLLM's and llama-server's names. The defaults constrain nothing.

    bad_words: never generated; each a text, or its token ids once the engine has tokenized it
    stop_token_ids: each ends the answer, as an end token does
    min_tokens: while the answer has fewer, neither an end token nor a stop string ends it
    include_stop_str_in_output: its text holds the stop string that ended it
    skip_special_tokens: its text leaves out control tokens
    t_max_predict_ms: it ends with the first line that is complete this long after the first token; 0: no limit
    """

    bad_words: tuple[str | tuple[int, ...], ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    min_tokens: NonNegative = 0
    include_stop_str_in_output: bool = False
    skip_special_tokens: bool = True
    t_max_predict_ms: NonNegative = 0

    @property
    def n_characters(self) -> int:
        """Of the texts that have to be tokenized."""
        return sum(len(word) for word in self.bad_words if isinstance(word, str))


NO_CONSTRAINTS = Constraints()
