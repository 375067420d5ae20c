"""Download a file of weights: retried, resumed, checked by hash, and written completely or not at all.

It uses ``requests`` and not ``pooch``: pooch cannot resume, retries a 404 three times, writes to standard error with
its own logger, and makes its files readable only by their owner, which breaks a cache shared by several users or a
container.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, TypeAlias
from urllib.parse import urlsplit

from comic_upscale.errors import WeightsError
from comic_upscale.models.catalogue import WeightsFile
from comic_upscale.models.digest import sha256_of
from comic_upscale.storage.base import sha256_of_file
from comic_upscale.storage.parts import open_part

if TYPE_CHECKING:
    import requests

OnProgress: TypeAlias = Callable[[str, int, int], None]
"""Called with the file's name, the bytes done and the total bytes. The bytes done drop when a transfer restarts."""

_CHUNK = 256 * 1024


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Retries and timeouts of a download. Times are in seconds."""

    tries: int = 3
    """The number of attempts, at least 1."""
    pause: float = 1.0
    """The wait before the second attempt. It doubles before each further attempt."""
    connect_timeout: float = 10.0
    """The longest time to establish a connection."""
    silence_timeout: float = 30.0
    """The longest time in which the server may send nothing."""


RETRY_POLICY = RetryPolicy()


class _TransferError(Exception):
    """This attempt failed. The next one may succeed."""


def fetch(
    file: WeightsFile,
    cache: Path,
    on_progress: OnProgress | None = None,
    *,
    retry_policy: RetryPolicy = RETRY_POLICY,
) -> Path:
    """Return the path of the file in the cache. It is downloaded unless it is there with the right hash.

    The file appears under its name only when complete and checked, so several processes may download it at once. A
    file with other bytes is replaced. An interrupted transfer continues where it stopped.

    Args:
        file: the file to download; not a bundled one, which has no URL.
        cache: the folder for the file; created when needed.
        on_progress: called as bytes arrive, on this thread.
        retry_policy: attempts and timeouts.

    Raises:
        WeightsError: there is no connection, the server does not have the file or sends other bytes, or the folder
            cannot be written. The message says how to get the file by hand.
    """
    target = cache / file.name
    if target.is_file() and sha256_of(target) == file.sha256:
        return target
    by_hand = f"Or download {file.url} by hand and save it as {target}."
    try:
        cache.mkdir(parents=True, exist_ok=True)
        # A separate name for each process, which is never taken for weights.
        with open_part(target, secrets.token_hex(4)) as part:
            _download(file, part.file, on_progress, retry_policy, by_hand)
            part.flush()
            part.move_to(target)
    except OSError as error:
        raise WeightsError(
            f"{file.name} could not be written to {cache}: {error.strerror or error}. Make sure that the folder is "
            f"writable and has {file.size / 1e6:.0f} MB free, or choose another folder. {by_hand}"
        ) from error
    return target


def _download(
    file: WeightsFile, out: IO[bytes], on_progress: OnProgress | None, policy: RetryPolicy, by_hand: str
) -> None:
    """Write the file's bytes to ``out`` and check their hash, within the allowed attempts."""
    import requests  # heavy, and needed only for a download

    with requests.Session() as session:
        for attempt in range(1, policy.tries + 1):
            try:
                _transfer(session, file, out, on_progress, policy, by_hand)
                return
            except (_TransferError, requests.RequestException) as error:
                if attempt == policy.tries:
                    raise WeightsError(
                        f"{file.name} could not be downloaded in {attempt} attempts: "
                        f"{_reason(error, file, policy)}. Check the connection and try again. {by_hand}"
                    ) from error
                time.sleep(policy.pause * 2 ** (attempt - 1))


def _transfer(
    session: requests.Session,
    file: WeightsFile,
    out: IO[bytes],
    on_progress: OnProgress | None,
    policy: RetryPolicy,
    by_hand: str,
) -> None:
    """Request the missing part of the file once, append it to ``out`` and check the whole file."""
    start = out.tell()
    # The byte counts of a compressed response would differ from those of the file.
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
    timeout = (policy.connect_timeout, policy.silence_timeout)
    with session.get(file.url, headers=headers, stream=True, timeout=timeout) as response:
        done = _begin(response, start, file, out, by_hand)
        resumed = done > 0
        for chunk in response.iter_content(_CHUNK):
            done += len(chunk)
            if done > file.size:
                raise _other_bytes(f"more than the {file.size:,} bytes of the official file", file, by_hand)
            out.write(chunk)
            if on_progress is not None:
                on_progress(file.name, done, file.size)
    if done < file.size:
        raise _TransferError(f"the connection was lost after {done:,} of {file.size:,} bytes")
    out.seek(0)
    found = sha256_of_file(out)
    if found != file.sha256:
        if resumed:  # the two parts may come from different servers; an attempt from the start decides
            _restart(out)
            raise _TransferError(f"its SHA-256 was {found}, expected {file.sha256}")
        raise _other_bytes(f"bytes with SHA-256 {found}, expected {file.sha256}", file, by_hand)


def _begin(response: requests.Response, start: int, file: WeightsFile, out: IO[bytes], by_hand: str) -> int:
    """Check the headers of the response, move ``out`` to the start of its body, and return that position in bytes."""
    status = response.status_code
    if status == 206 and response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
        position = start
    else:
        _restart(out)
        position = 0
    if status in (206, 416) and not position:
        raise _TransferError("the server did not continue an interrupted transfer")
    if status >= 500 or status in (408, 429):
        raise _TransferError(f"the server answered {status} {response.reason}")
    if status not in (200, 206):
        raise WeightsError(
            f"{file.name} could not be downloaded: the server answered {status} {response.reason}. "
            f"If the file has moved, look for a copy with SHA-256 {file.sha256}. {by_hand}"
        )
    length = response.headers.get("Content-Length", "")
    if length.isdecimal() and position + int(length) != file.size:
        raise _other_bytes(f"{int(length):,} bytes instead of {file.size - position:,}", file, by_hand)
    return position


def _restart(out: IO[bytes]) -> None:
    out.seek(0)
    out.truncate()


def _other_bytes(what: str, file: WeightsFile, by_hand: str) -> WeightsError:
    return WeightsError(
        f"The server sent {what}. This is not {file.name}, so nothing was saved. A proxy or a login page may have "
        f"answered instead. Try again from another network. {by_hand}"
    )


def _reason(error: Exception, file: WeightsFile, policy: RetryPolicy) -> str:
    """Return in plain words why a transfer failed."""
    import requests
    import urllib3

    host = urlsplit(file.url).netloc
    cause = error.args[0] if error.args else None
    if isinstance(error, requests.ConnectTimeout):
        return f"no connection to {host} within {policy.connect_timeout:g} s"
    # A stall within the body is raised as a ConnectionError that wraps urllib3's timeout.
    if isinstance(error, requests.Timeout) or isinstance(cause, urllib3.exceptions.TimeoutError):
        return f"{host} sent nothing for {policy.silence_timeout:g} s"
    if isinstance(error, requests.exceptions.SSLError):
        return f"the certificate of {host} was not accepted"
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return "the connection was lost during the transfer"
    if isinstance(error, requests.ConnectionError):
        return f"no connection to {host}"
    return str(error)
