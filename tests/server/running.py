"""A real server in a process of its own, and a client for it."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
from click.testing import Result
from typer.testing import CliRunner

from comic_upscale.cli import app

PATIENCE = 120.0
"""Seconds after which something that should happen counts as not happening, also on a busy machine."""


def command(*words: object) -> list[str]:
    return [sys.executable, "-m", "comic_upscale", *map(str, words)]


def clean_environment(home: Path, **variables: str) -> dict[str, str]:
    """The variables of a process that reads none of the tester's own settings and writes into no folder of theirs."""
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("COMIC_UPSCALE", "XDG_"))
    }
    for name in ("DATABASE_URL", "SECRET_KEY", "API_KEY", "ADMIN_SEED_PASS"):
        kept.pop(name, None)
    own = {"XDG_STATE_HOME": str(home / "state"), "XDG_CACHE_HOME": str(home / "cache")}
    # Nor does it depend on how full their disk is.
    return {**kept, **own, "COMIC_UPSCALE_MIN_FREE_DISK": "0", **variables}


def wait_for(what: Any, *, seconds: float = PATIENCE, every: float = 0.05, or_not: bool = False) -> Any:
    """Call something until it returns a true value, and return that; after some seconds fail, or return None."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := what():
            return found
        time.sleep(every)
    if or_not:
        return None
    raise AssertionError(f"did not happen within {seconds} seconds")


def invoke_here(home: Path, *words: object, **variables: str) -> Result:
    """Run `comic-upscale` in this process, with the variables of `clean_environment`."""
    kept = clean_environment(home, **variables)
    environment = {name: None for name in os.environ if name not in kept} | kept
    ended = CliRunner().invoke(app, [str(word) for word in words], env=environment)
    if ended.exception is not None and not isinstance(ended.exception, SystemExit):
        raise ended.exception
    return ended


class RunningServer:
    """A server process and an administrator's key for it."""

    def __init__(self, data: Path, home: Path, *options: object, **variables: str) -> None:
        self.data, self.home, self.options = data, home, options
        self.variables, self.environment = variables, clean_environment(home, **variables)
        self.process: subprocess.Popen[str] | None = None
        self.pages = self.api = ""
        self.lines: list[str] = []
        self.key = self.run("server", "key", "create", "--data", data, "--name", "tester", "--admin").strip()

    def run(self, *words: object) -> str:
        ended = invoke_here(self.home, *words, **self.variables)
        assert ended.exit_code == 0, ended.output
        return ended.stdout

    def start(self) -> None:
        self.errors = (self.home / "server.log").open("ab")
        self.process = subprocess.Popen(
            command("serve", "--data", self.data, "--port", 0, "--api-port", 0, *self.options),
            env=self.environment, stdout=subprocess.PIPE, stderr=self.errors, text=True,
        )  # fmt: skip
        assert self.process.stdout is not None
        self.lines = [self.process.stdout.readline() for _ in range(3)]
        urls = [found[0] for line in self.lines if (found := re.search(r"http://[^/\s]+", line))]
        assert len(urls) == 2, (self.lines, self.log())
        self.pages, self.api = urls

    def log(self) -> str:
        return (self.home / "server.log").read_text(encoding="utf-8", errors="replace")

    def stop(self, number: int = signal.SIGTERM) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        code = self.process.wait(PATIENCE)
        self._close()
        return code

    def kill(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self._close()

    def _close(self) -> None:
        if self.process is not None:
            assert self.process.stdout is not None
            self.process.stdout.close()
            self.errors.close()
            self.process = None

    @contextlib.contextmanager
    def client(self, key: str | None = None) -> Iterator[httpx.Client]:
        headers = {"X-API-Key": key or self.key}
        with httpx.Client(
            base_url=self.api, headers=headers, timeout=PATIENCE, follow_redirects=True
        ) as client:
            yield client

    def upload(self, client: httpx.Client, *paths: Path, **fields: str) -> str:
        files = [("file", (path.name, path.read_bytes())) for path in paths]
        answer = client.post("/api/v1/uploads", files=files, data=fields)
        assert answer.status_code == 202, answer.text
        return str(answer.json()["job_id"])

    def wait(self, client: httpx.Client, job_id: str, *statuses: str) -> dict[str, Any]:
        wanted = statuses or ("completed", "failed", "canceled")

        def look() -> dict[str, Any] | None:
            job: dict[str, Any] = client.get(f"/api/v1/jobs/{job_id}").raise_for_status().json()
            return job if job["status"] in wanted else None

        found: dict[str, Any] = wait_for(look, every=0.2)
        return found
