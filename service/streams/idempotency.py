"""Idempotency-Keys: the stream of each, and its request's digest."""

from __future__ import annotations

import hashlib

from service.errors import KeyReused


class Keys:
    """By tenant and key, for as long as the stream can be found."""

    def __init__(self) -> None:
        self._made: dict[tuple[str, str], tuple[str, str]] = {}
        self._key_of: dict[str, tuple[str, str]] = {}

    def add(self, tenant: str, key: str, id: str, asked: object) -> None:
        """This key names the stream of this id; an earlier one can't be found by it any more.

        asked: values whose repr identifies the request; its digest is kept, as a prompt may have megabytes.
        """
        self._made[tenant, key] = id, digest(asked)
        self._key_of[id] = tenant, key

    def find(self, tenant: str, key: str, asked: object) -> str:
        """The id of the stream that it started; empty: none. Raises KeyReused when its request was different."""
        made = self._made.get((tenant, key))
        if made is None:
            return ""
        if made[1] != digest(asked):
            raise KeyReused("This idempotency key was used for another request.", param="key")
        return made[0]

    def of(self, id: str) -> tuple[str, str] | None:
        """The tenant and the key of a stream."""
        return self._key_of.get(id)

    def forget(self, id: str) -> None:
        """The stream is gone, and its key with it, unless a later stream has the key."""
        key = self._key_of.pop(id, None)
        if key is not None and self._made[key][0] == id:
            del self._made[key]

    def __repr__(self) -> str:
        return f"<Keys {len(self._made)}>"


def digest(asked: object) -> str:
    """What identifies a request, here and in a store: of values whose repr identifies it."""
    return hashlib.sha256(repr(asked).encode("utf-8", "surrogateescape")).hexdigest()
