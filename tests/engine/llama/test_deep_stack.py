"""deep_stack.py: a short input runs on the caller's stack, a long one on a larger one, and a failure is reported."""

from __future__ import annotations

import threading

import pytest

from service.engine.llama.deep_stack import SHALLOW_BYTES, run_deep


def test_a_short_input_needs_no_thread() -> None:
    """Up to SHALLOW_BYTES the call runs on the caller's own thread."""
    assert run_deep(SHALLOW_BYTES, threading.get_ident) == threading.get_ident()


def test_a_long_input_has_a_thread_of_its_own() -> None:
    """A longer input runs on its own thread, and threads made later have the usual stack size again."""
    before = threading.stack_size()
    assert run_deep(SHALLOW_BYTES + 1, threading.get_ident) != threading.get_ident()
    assert threading.stack_size() == before


def test_no_stack_is_a_memory_error() -> None:
    """A stack larger than the address space is a MemoryError, and later calls work."""
    with pytest.raises(MemoryError, match="no stack for an input"):
        run_deep(1 << 50, lambda: 0)
    assert run_deep(SHALLOW_BYTES + 1, lambda: 1) == 1
