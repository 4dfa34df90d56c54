"""The command ``trunkline``: one file a command, imported when it is called.

Start-up time is part of the interface: ``trunkline --version`` and ``trunkline serve`` import neither rich
nor the client. So :data:`COMMANDS` names modules, and modules import what they need inside their functions.

Exit codes: 0 done; 1 the operation failed; 2 wrong arguments or configuration; 3 the server cannot be
reached; 130 interrupted. Errors are one line on stderr, with ``--json`` one JSON object; see
:mod:`trunkline.cli.failures`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

__all__ = ["main"]


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line and exit the process with its code."""
    try:
        from trunkline.cli.root import run

        code = run(sys.argv[1:] if args is None else list(args))
    except KeyboardInterrupt:  # while importing
        code = 130
    sys.exit(code)
