"""A plugin of one's own to begin with: a renamed copy of one half of the template.

The template is a working package with a store and a protocol. What belongs to one of them says so by its name: a
file by its path, an entry in ``pyproject.toml`` by its line, a part of the README by its section. So half of it is
what is left when everything with the other's name is gone, and the copy needs no marks in the original.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

__all__ = ["NAME_RULE", "TEMPLATE_NAMES", "is_plugin_name", "make_plugin", "template_directory"]

TEMPLATE_NAMES: Final = {"store": "shoebox", "protocol": "teletype"}
"""What each half is called in the template."""

NAME_RULE: Final = "use lower case letters and digits, words joined by - or _, a letter first: my-store"
_NAME: Final = re.compile(r"[a-z][a-z0-9]*([_-][a-z0-9]+)*\Z")
_SUFFIXES: Final = frozenset({".md", ".py", ".toml", ".typed"})
_DISTRIBUTION: Final = "trunkline-template"


def is_plugin_name(name: str) -> bool:
    """Whether a plugin, its module and its distribution can be called so."""
    return _NAME.match(name) is not None


def template_directory() -> Path:
    """The template: beside the package where that is installed, at the top of a checkout otherwise."""
    package = Path(__file__).parents[1]
    installed = package / "plugin_template"
    return installed if installed.is_dir() else package.parents[1] / "plugin-template"


def make_plugin(kind: str, name: str, target: Path) -> list[Path]:
    """Write a plugin into the new directory ``target`` and return the paths of its files in it.

    Args:
      kind: ``store`` or ``protocol``.
      name: see :func:`is_plugin_name`.

    Raises FileExistsError if ``target`` is there, other OSErrors; it is then not complete.
    """
    word = TEMPLATE_NAMES[kind]
    (other,) = set(TEMPLATE_NAMES.values()) - {word}
    source = template_directory()
    files: dict[Path, str] = {}
    for path in sorted(source.rglob("*")):
        place = path.relative_to(source)
        if path.suffix in _SUFFIXES and other not in str(place) and not _is_by_product(place):
            text = _without(other, path.suffix, path.read_text())
            files[Path(str(place).replace(word, _identifier(name)))] = _renamed(text, kind, word, name)
    target.mkdir(parents=True)
    for place, text in files.items():
        (target / place).parent.mkdir(parents=True, exist_ok=True)
        (target / place).write_text(text)
    return [*files]


def _is_by_product(place: Path) -> bool:
    return any(part.startswith((".", "__pycache__")) for part in place.parts)


def _without(other: str, suffix: str, text: str) -> str:
    """The text without what belongs to the other half."""
    if suffix == ".toml":
        return "".join(line for line in text.splitlines(keepends=True) if other not in line)
    if suffix == ".md":
        sections = re.split(r"^(?=## )", text, flags=re.MULTILINE)
        return "".join(section for section in sections if other not in section).rstrip() + "\n"
    return text


def _renamed(text: str, kind: str, word: str, name: str) -> str:
    identifier = _identifier(name)
    class_name = "".join(part.title() for part in identifier.split("_"))
    for old, new in (
        (_DISTRIBUTION, f"trunkline-{name}"),
        ("A store and a protocol", f"A {kind}"),
        (f"trunkline_{word}", f"trunkline_{identifier}"),
        (f"test_{word}", f"test_{identifier}"),
        (word.title(), class_name),
        (word, name),
    ):
        text = text.replace(old, new)
    return text


def _identifier(name: str) -> str:
    return name.replace("-", "_")
