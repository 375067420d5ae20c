"""Rate limits in a real Redis: servers count together, and go on alone while it is away."""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from limits import RateLimitItemPerHour, RateLimitItemPerMinute

from comic_upscale.errors import SettingsError
from comic_upscale.server import rates as rates_module
from comic_upscale.server.rates import Rates
from comic_upscale.server.settings import ServerSettings
from tests.server.running import wait_for

PASSWORD = "pass-word-of-redis"


class Redis:
    """A Redis server of this test's own, which can be stopped and started."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self.url = f"redis://:{PASSWORD}@127.0.0.1:{self.port}/0"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        # The password in a file: arguments are visible to all.
        (self.folder / "redis.conf").write_text(
            f'port {self.port}\nbind 127.0.0.1\nrequirepass {PASSWORD}\nsave ""\ndir {self.folder}\n'
        )
        self.process = subprocess.Popen(
            ["redis-server", str(self.folder / "redis.conf")],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        wait_for(self._answers)

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), 1):
                return True
        except OSError:
            return False


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis]:
    if importlib.util.find_spec("redis") is None:
        pytest.skip("the package redis is not installed: pip install '.[redis]'")
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed: apt-get install redis-server")
    redis = Redis(tmp_path_factory.mktemp("redis"))
    yield redis
    redis.stop()


@pytest.fixture
def redis(server: Redis, monkeypatch: pytest.MonkeyPatch) -> Redis:
    # A busy machine may take its time; a Redis that ended refuses at once.
    monkeypatch.setattr(rates_module, "TIMEOUT_SECONDS", 20)
    server.stop()
    server.start()
    return server


def test_servers_count_together(redis: Redis) -> None:
    async def count() -> list[bool]:
        servers = [Rates(redis.url), Rates(redis.url), Rates()]
        item = RateLimitItemPerHour(3)
        allowed = [await each.hit(item, "address:192.0.2.1") for each in servers[:2] * 2]
        assert await servers[0].hit(item, "address:192.0.2.2")
        wait, left = await servers[1].wait(item, "address:192.0.2.1")
        assert 3000 < wait <= 3600 and left == 0
        # One without Redis knows nothing of it.
        assert await servers[2].hit(item, "address:192.0.2.1")
        for each in servers:
            await each.close()
        return allowed

    assert asyncio.run(count()) == [True, True, True, False]


def test_without_redis_a_server_counts_alone_and_goes_back_to_it(
    redis: Redis, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rates_module, "AWAY_SECONDS", 0.0)
    item = RateLimitItemPerMinute(2)

    async def count() -> None:
        server, other = Rates(redis.url), Rates(redis.url)
        assert await server.hit(item, "a") and await other.hit(item, "a")
        redis.stop()
        # The limit still holds, for each server alone; and it says only once what is wrong.
        assert [await server.hit(item, "a") for _ in range(3)] == [True, True, False]
        wait, left = await server.wait(item, "a")
        assert 0 < wait <= 60 and left == 0
        assert [record.levelname for record in caplog.records] == ["ERROR"]
        redis.start()
        assert [await server.hit(item, "a") for _ in range(3)] == [True, True, False]
        for each in (server, other):
            await each.close()

    with caplog.at_level(logging.WARNING, "comic_upscale"):
        asyncio.run(asyncio.wait_for(count(), 60))
    assert [record.levelname for record in caplog.records] == ["ERROR", "WARNING"]
    assert PASSWORD not in caplog.text


def test_a_redis_that_does_not_answer_delays_a_request_once(caplog: pytest.LogCaptureFixture) -> None:
    if importlib.util.find_spec("redis") is None:
        pytest.skip("the package redis is not installed: pip install '.[redis]'")

    async def count(port: int) -> None:
        server = Rates(f"redis://127.0.0.1:{port}/0")
        assert await server.hit(RateLimitItemPerMinute(1), "a")
        # It is left alone now.
        assert server._limiter() is None
        assert not await server.hit(RateLimitItemPerMinute(1), "a")
        await server.close()

    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        asyncio.run(asyncio.wait_for(count(silent.getsockname()[1]), 60))
    assert "counts requests alone" in caplog.text


def test_an_address_that_cannot_work_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="REDIS_URL must be a URL"):
        ServerSettings(data=tmp_path, redis_url="http://redis:6379")
