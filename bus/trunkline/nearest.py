"""What somebody probably meant: for errors about a name that is not known."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["nearest"]


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The one of ``known`` that is most like ``name``; None: none is much like it."""
    import difflib  # only errors need it

    return next(iter(difflib.get_close_matches(name, known, n=1)), None)
