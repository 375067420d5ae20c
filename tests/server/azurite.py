"""Azurite, Microsoft's own server for tests of Azure Blob Storage, where it is installed. It checks signatures."""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import shutil
import urllib.request
from email.utils import formatdate

PROGRAM = "COMIC_UPSCALE_TEST_AZURITE"
"""The variable that names its program ``azurite-blob``, if that is in no folder of PATH."""


def program() -> str | None:
    """The program; None where it is not installed."""
    return shutil.which(os.environ.get(PROGRAM) or "azurite-blob")


def command(folder: str) -> list[str]:
    """The words that start it on a free port."""
    found = program()
    assert found is not None
    return [
        found, "--blobHost", "127.0.0.1", "--blobPort", "0", "--location", folder, "--silent",
        "--skipApiVersionCheck", "--disableTelemetry",
    ]  # fmt: skip


def request_for_container(endpoint: str, account: str, key: str, name: str) -> urllib.request.Request:
    """The request that creates a container; obstore has none for it."""
    version, date = "2021-08-06", formatdate(usegmt=True)
    lines = [
        "PUT",
        *[""] * 11,
        f"x-ms-date:{date}",
        f"x-ms-version:{version}",
        f"/{account}/{account}/{name}",
    ]
    signed = "\n".join([*lines, "restype:container"])
    digest = hmac.new(base64.b64decode(key), signed.encode(), hashlib.sha256).digest()
    headers = {
        "x-ms-date": date, "x-ms-version": version,
        "Authorization": f"SharedKey {account}:{base64.b64encode(digest).decode()}",
    }  # fmt: skip
    return urllib.request.Request(f"{endpoint}/{name}?restype=container", method="PUT", headers=headers)
