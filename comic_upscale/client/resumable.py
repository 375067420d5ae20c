"""Sending large files in parts that continue after a break, as steps that both clients do in their own way."""

from __future__ import annotations

import base64
import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import httpx2 as httpx

from comic_upscale.client.answers import AGAIN, ClientError, form_fields, open_file, read_answer, read_error

RESUMABLE_FROM = 32 << 20
"""Bytes of all files of an upload from which on it is sent in parts."""
PART_BYTES = 16 << 20
"""Bytes of a request. Proxies often refuse larger ones than some dozen megabytes."""
PATIENCE = 300.0
"""Seconds without progress after which an upload fails."""
_LONGEST_PAUSE = 10.0
_ADDRESS = "/api/v1/uploads/resumable"
T = TypeVar("T")
_TUS = {"Tus-Resumable": "1.0.0"}


@dataclass(frozen=True, slots=True)
class Ask:
    """A request to send. Its answer, or None if there was none, goes back into the generator."""

    method: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    content: bytes | None = None
    json: Any = None


@dataclass(frozen=True, slots=True)
class Pause:
    """Time to let pass before the next step."""

    seconds: float


Steps: TypeAlias = Generator[Ask | Pause, httpx.Response | None, T]
"""Steps to do, which end in a value."""


def is_large(files: Sequence[Path | str]) -> bool:
    """Return whether files should be sent in parts.

    Raises:
        OSError: a file cannot be read.
    """
    return sum(Path(path).stat().st_size for path in files) >= RESUMABLE_FROM


def upload_steps(files: Sequence[Path | str], options: Mapping[str, object], patience: float) -> Steps[str]:
    """Upload files in parts, make one job of them, and return its id.

    A break at any place is tried again from the bytes that the server has, until ``patience`` seconds have passed
    without progress.

    Raises:
        ClientError: the server refuses the upload, or cannot be reached.
        OSError: a file cannot be read.
    """
    trial, fields = _Trial(patience), form_fields(options)
    urls: list[str] = []
    for path in files:
        url = yield from _begin(trial, Path(path), fields)
        urls.append(url)
        yield from _send(trial, Path(path), url)
    asked = {"uploads": [url.rpartition("/")[2] for url in urls], "fields": fields}
    # The server makes one job of the same uploads, however often it is asked.
    response = yield from trial.ask(Ask("POST", f"{_ADDRESS}/complete", json=asked))
    answer = read_answer(response)
    trial.progressed()
    try:
        return str(answer["job_id"])
    except (KeyError, TypeError):
        raise ClientError("this is no answer of a comic-upscale server") from None


class _Trial:
    """How long requests are tried again.

    Args:
        patience: seconds without progress.
    """

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self.progressed()

    def progressed(self) -> None:
        self._since, self._pause = time.monotonic(), 0.25

    def ask(self, ask: Ask) -> Steps[httpx.Response]:
        """Send a request until it has an answer that another try would not change.

        Raises:
            ClientError: the patience has ended.
        """
        while True:
            response = yield ask
            if response is not None and not is_passing(response):
                return response
            yield self.pause(response)

    def pause(self, response: httpx.Response | None) -> Pause:
        """Return the time before the next try.

        Raises:
            ClientError: the patience has ended.
        """
        given = response.headers.get("retry-after", "") if response is not None else ""
        pause = float(given) if given.isascii() and given.isdigit() else self._pause
        self._pause = min(self._pause * 2, _LONGEST_PAUSE)
        if time.monotonic() + pause - self._since > self._patience:
            if response is not None:
                raise read_error(response)
            raise ClientError(f"the server cannot be reached: no answer for {self._patience:g} seconds")
        return Pause(pause)


def is_passing(response: httpx.Response) -> bool:
    """Return whether a later try may have another answer."""
    return response.status_code == 423 or response.status_code in AGAIN


def _begin(trial: _Trial, path: Path, fields: Mapping[str, str]) -> Steps[str]:
    # The server checks the fields now, before the bytes are sent.
    pairs = [f"{name} {_base64(text)}" for name, text in ({"filename": path.name} | dict(fields)).items()]
    headers = _TUS | {
        "Upload-Length": str(path.stat().st_size), "Upload-Metadata": ",".join([*pairs, "hold"]),
    }  # fmt: skip
    # A try whose answer was lost leaves an empty upload, which expires.
    response = yield from trial.ask(Ask("POST", _ADDRESS, headers))
    if not response.is_success:
        raise read_error(response)
    location = response.headers.get("location", "")
    upload_id = location.rstrip("/").rpartition("/")[2]
    if not upload_id:
        raise ClientError("this is no answer of a comic-upscale server")
    trial.progressed()
    return f"{_ADDRESS}/{upload_id}"


def _base64(text: str) -> str:
    return base64.b64encode(text.encode("utf-8", "surrogateescape")).decode()


def _send(trial: _Trial, path: Path, url: str) -> Steps[None]:
    with open_file(path) as file:
        length, offset = path.stat().st_size, 0
        while offset < length:
            file.seek(offset)
            part = file.read(PART_BYTES)
            if not part:
                raise ClientError(f"{path} became shorter while it was sent: send it again")
            headers = _TUS | {
                "Upload-Offset": str(offset), "Content-Type": "application/offset+octet-stream",
            }  # fmt: skip
            response = yield Ask("PATCH", url, headers, part)
            if response is not None and response.is_success:
                reached = _offset_in(response)
            elif response is None or is_passing(response) or response.status_code == 409:
                yield trial.pause(response)
                reached = yield from _ask_offset(trial, url)
            else:
                raise read_error(response)
            if reached > offset:
                trial.progressed()
            offset = reached


def _ask_offset(trial: _Trial, url: str) -> Steps[int]:
    response = yield from trial.ask(Ask("HEAD", url, _TUS))
    if response.status_code == 404:
        raise ClientError("the server no longer has this upload: send it again", status=404, code="not_found")
    if not response.is_success:
        raise read_error(response)
    return _offset_in(response)


def _offset_in(response: httpx.Response) -> int:
    text = response.headers.get("upload-offset", "")
    if not (text.isascii() and text.isdigit()):
        raise ClientError("this is no answer of a comic-upscale server", status=response.status_code)
    return int(text)
