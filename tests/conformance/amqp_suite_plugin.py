"""Gives the suites of aio-pika and aiormq a broker that runs already, where they would start one with Docker.

A pytest plugin, loaded by ``amqp_clients.py``, which says where the broker is: ``AMQP_PORT`` and ``AMQPS_PORT``.
"""

from __future__ import annotations

import importlib
import os
from types import SimpleNamespace
from typing import Any

import pytest


class _Docker:
    """What their tests use of a client of Docker."""

    def __init__(self, host: object = None) -> None:
        pass

    def run(self, image: str, ports: list[str], environment: object = None) -> Any:
        """Where the broker is."""
        return _container()

    def kill(self, container: str) -> None:
        """It goes with the script."""

    remove = stop = kill


def _container() -> Any:
    ports = {"5672/tcp": int(os.environ["AMQP_PORT"]), "5671/tcp": int(os.environ["AMQPS_PORT"])}
    return SimpleNamespace(id="", host="127.0.0.1", ports=ports)


docker_client: Any = importlib.import_module("tests.docker_client")
docker_client.check_docker_available = lambda: None
docker_client.DockerClient = _Docker


@pytest.fixture(scope="session")
def rabbitmq_container() -> Any:
    """For a suite that does not make its own of ``docker_client``."""
    return _container()


@pytest.fixture(scope="session")
def amqp_direct_url() -> Any:
    """Likewise."""
    from yarl import URL

    return URL.build(scheme="amqp", user="guest", password="guest", path="//", host="127.0.0.1",
                     port=int(os.environ["AMQP_PORT"]))  # fmt: skip
