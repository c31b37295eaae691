"""Which prefixes of a sequence a model's cache can share. Pure."""

from __future__ import annotations

from enum import StrEnum


class Memory(StrEnum):
    """What llama.cpp keeps of a sequence, and so which prefixes of it can be shared."""

    CUTTABLE = "cuttable"  # every token's cells: any prefix of any sequence
    WINDOWED = "windowed"  # in some layers the last n_swa tokens' cells: prefixes that still have those before the cut
    STATE = "state"  # a recurrent state, after the last token alone: only the whole sequence
