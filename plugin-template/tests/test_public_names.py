"""The plugin uses only what Trunkline promises to keep: names without a leading underscore."""

from __future__ import annotations

import ast
from pathlib import Path

FOLDER = Path(__file__).parents[1]


def test_only_public_names_are_imported() -> None:
    private = []
    for path in sorted(FOLDER.glob("trunkline_*/**/*.py")):
        for node in ast.walk(ast.parse(path.read_text(), str(path))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "trunkline":
                words = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
                private += [f"{path.name}: {word}" for word in words if word.startswith("_")]
    assert private == []
