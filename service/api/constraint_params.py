"""The parameters that constrain an answer's text and its end, by vLLM's and llama-server's names."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from service.api.fields import BadWords, StopIds, Whole
from service.errors import Invalid
from service.protocol.constraints import Constraints


class ConstraintParams(BaseModel):
    """Those of every route that generates."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)

    stop_token_ids: StopIds | None = None
    min_tokens: Whole | None = Field(None, ge=0, lt=2**31)
    bad_words: BadWords = None
    include_stop_str_in_output: bool | None = None
    skip_special_tokens: bool | None = None
    t_max_predict_ms: Whole | None = Field(None, ge=-1, lt=2**31)  # -1 and 0: no limit

    def constraints(self, max_tokens: int | None) -> Constraints:
        """As the engine gets them. Raises Invalid if an answer of max_tokens would be too short."""
        if max_tokens is not None and (self.min_tokens or 0) > max_tokens:
            raise Invalid(f"min_tokens: it must be at most max_tokens, {max_tokens}.", param="min_tokens")
        return Constraints(
            bad_words=tuple(self.bad_words or ()),
            stop_token_ids=tuple(self.stop_token_ids or ()),
            min_tokens=self.min_tokens or 0,
            include_stop_str_in_output=bool(self.include_stop_str_in_output),
            skip_special_tokens=self.skip_special_tokens is not False,
            t_max_predict_ms=max(0, self.t_max_predict_ms or 0),
        )
