"""The log: JSON in a file that is rotated, with the ids of requests and jobs, and without secrets."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest

from comic_upscale.commands.server_logging import (
    JsonLines,
    LogOptions,
    TextLines,
    make_handlers,
    secrets_of,
    set_up_server_logging,
)
from comic_upscale.engines.base import Batch, Upscaled
from comic_upscale.errors import DeviceError, SettingsError
from comic_upscale.execution.stop import StopRequest
from comic_upscale.server.api import admin_server
from comic_upscale.server.log_context import job_id, logged_as, new_thread
from comic_upscale.server.recent_log import LONGEST_LINE, MOST_LINES, RecentLog
from comic_upscale.server.services import Services
from comic_upscale.server.settings import ServerSettings
from comic_upscale.server.supervisor import WorkerCommand, _log_line
from comic_upscale.worker.engines import EngineCache
from comic_upscale.worker.job import JobRunner
from tests.conftest import draw
from tests.fakes import NearestEngine
from tests.server.conftest import OpenServices, client_of, make_key
from tests.server.pages import pages_of, sign_in
from tests.server.test_access import add_person
from tests.server.test_queue import taken

SECRETS = {
    "secret_key": "sign-with-this-secret-one,sign-with-this-secret-two", "admin_seed_pass": "first-password-of-boss",
    "api_key": "key-from-the-environment", "smtp_password": "and://password-of-the-mail",
    "webhook_secret": "whsec_" + "eHh4" * 10,
    "redis_url": "redis://:password-of-redis@redis:6379/0",
    "s3_access_key_id": "key-of-the-bucket", "s3_secret_access_key": "secret-of-the-bucket",
}  # fmt: skip
WORDS = [
    "secret-one", "secret-two", "first-password", "key-from-the", "of-the-mail", "whsec_eHh4", "of-redis", "key-of-the",
    "of-the-bucket",
]  # fmt: skip


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def log_file(tmp_path: Path) -> Iterator[Path]:
    """The log of this process, as `serve --verbose --log-file` writes it."""
    handlers = make_handlers(LogOptions(log_file=tmp_path / "log"))
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.INFO)
    root.addHandler(handlers[1])
    yield tmp_path / "log"
    root.removeHandler(handlers[1])
    root.setLevel(level)
    handlers[1].close()


def test_the_file_is_rotated_and_private(tmp_path: Path) -> None:
    options = LogOptions(log_file=tmp_path / "log", log_file_size=1024, log_file_count=2)
    handler = make_handlers(options)[1]
    try:
        for number in range(100):
            handler.handle(logging.makeLogRecord({"name": "x", "msg": f"line {number}", "levelname": "INFO"}))
    finally:
        handler.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log", "log.1", "log.2"]
    lines = [line for name in ("log.2", "log.1", "log") for line in read(tmp_path / name)]
    assert [line["message"] for line in lines] == [
        f"line {number}" for number in range(100 - len(lines), 100)
    ]
    for path in tmp_path.iterdir():
        assert path.stat().st_size <= 1024
        assert os.name != "posix" or path.stat().st_mode & 0o777 == 0o600


def test_a_file_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"--log-file: .* cannot be written"):
        make_handlers(LogOptions(log_file=tmp_path / "missing" / "log"))
    with pytest.raises(SettingsError, match="--log-file-size"):
        LogOptions(log_file_size=1)


def test_lines_of_a_request_have_its_id(log_file: Path, open_server: OpenServices) -> None:
    services = open_server()
    with client_of(services, make_key(services, "me")) as client:
        first = client.get("/api/v1/jobs", headers={"X-Request-Id": "mine-1"})
        second = client.get("/api/v1/jobs")
    lines = [line for line in read(log_file) if line["logger"] == "comic_upscale.access"]
    assert [line["request_id"] for line in lines] == ["mine-1", second.headers["X-Request-Id"]]
    assert first.headers["X-Request-Id"] == "mine-1" and all("seconds" in line for line in lines)


def test_lines_of_a_job_have_its_id_whichever_thread_writes_them(
    log_file: Path, open_server: OpenServices, tmp_path: Path
) -> None:
    class Fails(NearestEngine):
        def upscale(self, batch: Batch) -> Upscaled:
            raise DeviceError("the GPU fell off the bus")

    services = open_server()
    page = draw(tmp_path / "page.png", 5, size=(40, 50))
    with client_of(services, make_key(services, "me")) as client:
        answer = client.post("/api/v1/uploads", files=[("file", (page.name, page.read_bytes()))])
        wanted = answer.json()["job_id"]
    runner = JobRunner(
        services.settings, {"workers": 1}, services.database, services.files, StopRequest(),
        EngineCache(lambda _job, _weights: [Fails()]),
    )  # fmt: skip
    runner.run(taken(services.database))
    (line,) = (line for line in read(log_file) if "fell off the bus" in line["message"])
    assert (line["job_id"], line["level"]) == (wanted, "error")
    with logged_as(job_id, "another"):
        thread = new_thread(lambda: logging.getLogger("here").error("from a thread"), "t")
    thread.start()
    thread.join()
    assert read(log_file)[-1]["job_id"] == "another"


def test_lines_of_the_worker_keep_their_level_and_their_job(log_file: Path) -> None:
    for text in (
        JsonLines().format(logging.makeLogRecord({"name": "w", "msg": "odd", "levelname": "INFO", "job_id": "j1"})),
        "Segmentation fault", "{not JSON", '{"level": "no", "message": "x"}', '{"level": 7}', "{}", '{"a":' * 50_000,
    ):  # fmt: skip
        _log_line(text)
    lines = read(log_file)
    assert (lines[0]["message"], lines[0]["level"], lines[0]["job_id"]) == ("worker: odd", "info", "j1")
    assert [line["level"] for line in lines[1:]] == ["warning"] * 6
    assert lines[1]["message"] == "worker: Segmentation fault"


@pytest.mark.parametrize("formatter", [JsonLines, TextLines])
def test_no_line_has_a_secret(formatter: type[logging.Formatter], tmp_path: Path) -> None:
    settings = ServerSettings(
        data=tmp_path, database="postgresql://me:password-of-db@db/x", **SECRETS,  # type: ignore[arg-type]
    )  # fmt: skip
    made = formatter(secrets_of(settings))  # type: ignore[arg-type]
    texts = [*SECRETS.values(), *settings.secret_keys, str(settings.database), "cu_3205d5e5939f_abc-DEF_123"]
    try:
        raise ValueError(f"{texts}")
    except ValueError:
        trace = sys.exc_info()
    for text in texts:
        for record in (
            {"msg": f"a {text} b"}, {"msg": "a %s b", "args": (text,)}, {"msg": "x", "job_id": text},
            {"msg": "x", "exc_info": trace}, {"msg": f"{text}{text}"},
        ):  # fmt: skip
            line = made.format(logging.makeLogRecord({"name": "x", "levelname": "ERROR", **record}))
            assert [word for word in [*WORDS, "password-of-db", "abc-DEF"] if word in line] == [], line
    line = made.format(logging.makeLogRecord({"msg": "postgresql://me:password-of-db@db/x is away"}))
    assert "@db/x is away" in line


def test_a_worker_of_a_server_logs_json() -> None:
    from comic_upscale.commands.serve import _worker_command

    command = _worker_command(ServerSettings(data=Path("data").absolute()))
    assert isinstance(command, WorkerCommand) and "--log-json" in command.arguments


@pytest.fixture
def recent(tmp_path: Path) -> Iterator[RecentLog]:
    """The last lines of a server with secrets, as `serve` keeps them."""
    recent = RecentLog()
    settings = ServerSettings(data=tmp_path / "data", webhook_secret=SECRETS["webhook_secret"])
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers = []
    try:
        set_up_server_logging(LogOptions(), settings, recent)
        yield recent
    finally:
        root.handlers = handlers
        root.setLevel(level)


def test_administrators_read_the_last_lines_without_secrets(services: Services, recent: RecentLog) -> None:
    served = replace(services, recent_log=recent)
    log = logging.getLogger("comic_upscale.server.outbox")
    log.warning("<b>first</b> with %s and cu_0123456789ab_abc-DEF", SECRETS["webhook_secret"])
    log.info("said with --verbose alone")
    log.error("second", extra={"job_id": "j1"})
    with client_of(served, make_key(services, "boss", "admin")) as boss:
        first, second = boss.get("/api/v1/admin/log").json()["lines"]
        assert (first["level"], second["level"]) == ("warning", "error")
        assert "first</b> with ... and cu_0123456789ab_..." in first["line"]
        assert "second [job_id=j1]" in second["line"]
        after = boss.get("/api/v1/admin/log", params={"after": first["id"]}).json()["lines"]
        assert after == [second]
        # The server was started again since, and counts from the beginning.
        assert len(boss.get("/api/v1/admin/log", params={"after": 99}).json()["lines"]) == 2
    add_person(services, "root", "admin")
    with pages_of(served) as browser:
        text = sign_in(browser, "root").get("/admin/log").text
        assert text.index("second") < text.index("&lt;b&gt;first") and "whsec_" not in text
        assert f'data-events="/api/v1/admin/log/events?after={second["id"]}"' in text
        sent = browser.get("/admin/log.txt")
        assert sent.headers["content-disposition"] == 'attachment; filename="server-log.txt"'
        assert ["first" in line for line in sent.text.splitlines()] == [True, False]


def test_the_last_lines_are_bounded(recent: RecentLog) -> None:
    log = logging.getLogger("comic_upscale.test")
    for number in range(MOST_LINES + 5):
        log.warning("line %d", number)
    log.warning("x" * 10 * LONGEST_LINE)
    kept = recent.read()
    assert len(kept) == MOST_LINES and kept[0].text.endswith("line 6")
    assert [line.id for line in kept] == list(range(kept[0].id, kept[0].id + MOST_LINES))
    assert len(kept[-1].text) == LONGEST_LINE


def test_lines_of_a_later_start_come_after_those_of_an_earlier_one(recent: RecentLog) -> None:
    log = logging.getLogger("comic_upscale.test")
    log.warning("before")
    seen = recent.read()[-1].id
    later = RecentLog()
    later.handle(logging.makeLogRecord({"msg": "after", "levelno": logging.WARNING}))
    assert [line.text for line in later.read(seen)] == ["after"]


def test_who_follows_the_log_gets_each_line_once_in_order(recent: RecentLog) -> None:
    log = logging.getLogger("comic_upscale.test")
    log.warning("first")
    followed: list[str] = []

    async def follow() -> None:
        async for line in recent.follow(0, lambda: len(followed) == 3):
            followed.append(line.text.split()[-1])
            if len(followed) == 1:
                log.warning("second")
                log.warning("third")

    asyncio.run(asyncio.wait_for(follow(), 60))
    assert followed == ["first", "second", "third"]


def test_a_stream_of_the_log_goes_on_after_the_last_line_that_came(
    services: Services, recent: RecentLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Each stream ends with what is there.
    monkeypatch.setattr(admin_server, "LONGEST_STREAM_SECONDS", 0)
    log = logging.getLogger("comic_upscale.test")
    log.warning("first")
    log.error("second\nline")
    address = "/api/v1/admin/log/events"

    def events(client: httpx.Client, after: int = 0, **headers: str) -> list[str]:
        lines = client.get(address, params={"after": after}, headers=headers).text.splitlines()
        found = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]
        ids = [line.removeprefix("id: ") for line in lines if line.startswith("id: ")]
        assert ids == [str(each["id"]) for each in found]
        return [each["level"] for each in found]

    with client_of(replace(services, recent_log=recent), make_key(services, "boss", "admin")) as boss:
        assert events(boss) == ["warning", "error"]
        first, second = recent.read()
        assert events(boss, after=first.id) == ["error"]
        # The header is newer than the address.
        assert events(boss, **{"Last-Event-ID": str(second.id)}) == []
        assert len(events(boss, **{"Last-Event-ID": "none"})) == 2
    with client_of(replace(services, recent_log=recent), make_key(services, "anna")) as person:
        assert person.get(address).status_code == 403
