"""An engine setting is defined in two places: a field of Settings, and the field of Options with the same name."""

from __future__ import annotations

from typing import Annotated, Any, get_args, get_origin

import pytest
from msgspec import NODEFAULT
from msgspec.structs import fields

from service.engine.host.kv_type import AUTO
from service.engine.llama.constants import FLASH_ATTENTION, KV_TYPES
from service.engine.llama.model import SPLIT_MODES
from service.engine.scheduling.prefill_chunks import STEP_S
from service.protocol.options import FlashAttention, KvType, Options, SplitMode
from service.settings import Settings

OPTIONS = [option for option in fields(Options) if option.default is not NODEFAULT]


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.name)
def test_each_is_a_setting(option: Any) -> None:
    """With the same type and default: the engine on its own is the engine of the service."""
    setting = Settings.model_fields[option.name]
    hint = get_args(option.type)[0] if get_origin(option.type) is Annotated else option.type
    assert (setting.annotation, setting.default) == (hint, option.default)


def test_the_values_are_those_for_llama_cpp() -> None:
    """Any other value would only be noticed when the model is loaded."""
    assert set(get_args(KvType)) == {AUTO, *KV_TYPES}
    assert set(get_args(FlashAttention)) == set(FLASH_ATTENTION)
    assert set(get_args(SplitMode)) == set(SPLIT_MODES)
    assert OPTIONS and Options(model="").step_ms == STEP_S * 1000
