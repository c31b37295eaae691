"""Idempotency-Keys: the stream that each made, and what it was asked for."""

from __future__ import annotations

import hashlib

from service.errors import KeyReused


class Keys:
    """By tenant and key, for as long as the stream can be found."""

    def __init__(self) -> None:
        self._made: dict[tuple[str, str], tuple[str, str]] = {}
        self._key_of: dict[str, tuple[str, str]] = {}

    def add(self, tenant: str, key: str, id: str, asked: object) -> None:
        """This key makes the stream of this id; one that it made before can't be found by it any more.

        asked: values whose repr tells them apart; a digest of it is kept, for there may be megabytes of prompt in it.
        """
        self._made[tenant, key] = id, digest(asked)
        self._key_of[id] = tenant, key

    def find(self, tenant: str, key: str, asked: object) -> str:
        """The id of the stream that it made; empty: none. Raises KeyReused when that was asked for something else."""
        made = self._made.get((tenant, key))
        if made is None:
            return ""
        if made[1] != digest(asked):
            raise KeyReused("This key was used for another request.", param="key")
        return made[0]

    def of(self, id: str) -> tuple[str, str] | None:
        """The tenant and the key that made a stream."""
        return self._key_of.get(id)

    def forget(self, id: str) -> None:
        """The stream is gone, and its key with it, unless a later one has the key by now."""
        key = self._key_of.pop(id, None)
        if key is not None and self._made[key][0] == id:
            del self._made[key]

    def __repr__(self) -> str:
        return f"<Keys {len(self._made)}>"


def digest(asked: object) -> str:
    """What tells this request from others, here and in a store: of values whose repr does."""
    return hashlib.sha256(repr(asked).encode("utf-8", "surrogateescape")).hexdigest()
