"""Sinks: a Redis server, and the places that a collector can put events into."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.places import InFile, InRedis, InSqlite, Place
from tests.support.redis_server import RedisServer


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[RedisServer]:
    """One that is not started yet."""
    server = RedisServer(tmp_path / "redis")
    yield server
    server.kill()


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Redis server for all tests; each has a key of its own."""
    server = RedisServer(tmp_path_factory.mktemp("redis") / "server")
    try:
        server.start()
        yield server.url
    finally:
        server.kill()


@pytest.fixture(params=["file", "redis", "sqlite"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "file":
        return InFile(tmp_path / "events")
    if request.param == "sqlite":
        return InSqlite(tmp_path / "events.db")
    return InRedis(request.getfixturevalue("redis_url"), tmp_path.name)


@pytest.fixture
def places(tmp_path: Path, redis_url: str) -> list[Place]:
    """One of each kind."""
    return [
        InFile(tmp_path / "events"),
        InRedis(redis_url, tmp_path.name),
        InSqlite(tmp_path / "events.db"),
    ]
