"""A dict that is small while it has one entry.

There are hundreds of thousands of places in a broker where a key has one value nearly always: the subscribers of
a filter, the filters of a subscriber. A dict with one entry takes 232 bytes, this takes 56.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, Generic, TypeVar, cast

__all__ = ["Few"]

K = TypeVar("K")
V = TypeVar("V")


class _Nothing:
    """Stands where a key would. An own type, so that no key is equal to it."""

    __slots__ = ()


_NOTHING: Final = _Nothing()


class Few(Generic[K, V]):
    """What of a dict's methods its users need. With more than one entry it is a dict behind a thin wall."""

    __slots__ = ("_key", "_more", "_value")

    def __init__(self) -> None:
        self._key: K | _Nothing = _NOTHING  # the only key; none while there is a dict
        self._value: Any = None
        self._more: dict[K, V] | None = None

    def __len__(self) -> int:
        return (self._key is not _NOTHING) if self._more is None else len(self._more)

    def __contains__(self, key: object) -> bool:
        return self._key == key if self._more is None else key in self._more

    def __iter__(self) -> Iterator[K]:
        if self._more is not None:
            return iter(self._more)
        return iter(() if self._key is _NOTHING else (cast(K, self._key),))

    def __getitem__(self, key: K) -> V:
        if self._more is not None:
            return self._more[key]
        if self._key != key:
            raise KeyError(key)
        return cast(V, self._value)

    def get(self, key: K) -> V | None:
        """The value, or None if there is none."""
        if self._more is not None:
            return self._more.get(key)
        return cast(V, self._value) if self._key == key else None

    def __setitem__(self, key: K, value: V) -> None:
        if self._more is not None:
            self._more[key] = value
        elif self._key is _NOTHING or self._key == key:
            self._key, self._value = key, value
        else:
            self._more = {cast(K, self._key): self._value, key: value}
            self._key, self._value = _NOTHING, None

    def pop(self, key: K, default: V | None = None) -> V | None:
        """Take an entry away."""
        if self._more is not None:
            found = self._more.pop(key, default)
            if len(self._more) == 1:
                ((self._key, self._value),) = self._more.items()
                self._more = None
            return found
        if self._key != key:
            return default
        value = cast(V, self._value)
        self._key, self._value = _NOTHING, None
        return value

    def items(self) -> Iterator[tuple[K, V]]:
        """All entries, as they came. It must not change meanwhile."""
        if self._more is not None:
            return iter(self._more.items())
        return iter(() if self._key is _NOTHING else ((cast(K, self._key), cast(V, self._value)),))

    def clear(self) -> None:
        self._key, self._value, self._more = _NOTHING, None, None
