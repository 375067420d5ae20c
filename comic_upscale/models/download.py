"""Download a file of weights: retried, resumed, checked by hash, and written completely or not at all.

It uses ``requests`` and not ``pooch``: pooch cannot resume, retries a 404 three times, writes to standard error with
its own logger, and makes its files readable only by their owner, which breaks a cache shared by several users or a
container.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, TypeAlias
from urllib.parse import urlsplit

from comic_upscale.errors import WeightsError
from comic_upscale.models.catalogue import WeightsFile
from comic_upscale.models.digest import sha256_of
from comic_upscale.retries import RetryPolicy, with_retries
from comic_upscale.storage.base import sha256_of_file
from comic_upscale.storage.parts import open_part

if TYPE_CHECKING:
    import requests

OnProgress: TypeAlias = Callable[[str, int, int], None]
"""Called with the file's name, the bytes done and the total bytes. The bytes done drop when a transfer restarts."""

_CHUNK = 256 * 1024


RETRY_POLICY = RetryPolicy(attempts=3)


@dataclass(frozen=True, slots=True)
class Timeouts:
    """The timeouts of a download, in seconds."""

    connect: float = 10.0
    """The longest time to establish a connection."""
    silence: float = 30.0
    """The longest time in which the server may send nothing."""


TIMEOUTS = Timeouts()


class _TransferError(Exception):
    """This attempt failed. The next one may succeed."""


def fetch(
    file: WeightsFile,
    cache: Path,
    on_progress: OnProgress | None = None,
    *,
    retry_policy: RetryPolicy = RETRY_POLICY,
    timeouts: Timeouts = TIMEOUTS,
) -> Path:
    """Return the path of the file in the cache. It is downloaded unless it is there with the right hash.

    The file appears under its name only when complete and checked, so several processes may download it at once. A
    file with other bytes is replaced. An interrupted transfer continues where it stopped.

    Args:
        file: the file to download; not a bundled one, which has no URL.
        cache: the folder for the file; created when needed.
        on_progress: called as bytes arrive, on this thread.
        retry_policy: when a failed transfer is retried.
        timeouts: of each attempt.

    Raises:
        WeightsError: there is no connection, the server does not have the file or sends other bytes, or the folder
            cannot be written. The message says how to get the file by hand.
    """
    target = cache / file.name
    if target.is_file() and sha256_of(target) == file.sha256:
        return target
    by_hand = f"Or download {file.url} by hand and save it as {target}"
    try:
        cache.mkdir(parents=True, exist_ok=True)
        # A separate name for each process, which is never taken for weights.
        with open_part(target, secrets.token_hex(4)) as part:
            transfer = _Transfer(file, part.file, on_progress, timeouts, by_hand)
            transfer.run(retry_policy)
            part.flush()
            part.move_to(target)
    except OSError as error:
        raise WeightsError(
            f"{file.name} could not be written to {cache}: {error.strerror or error}. Make sure that the folder is "
            f"writable and has {file.size / 1e6:.0f} MB free, or choose another folder. {by_hand}"
        ) from error
    return target


_BY_HAND = re.compile(
    r" Or download \S+ by hand and save it as .*?(?= \(attempt \d+ of \d+\)|$)| Make sure that the folder is.*",
    re.DOTALL,
)
_WRITTEN_TO = re.compile(r" could not be written to .*?(?=: )")


def without_places(message: str) -> str:
    """Return the message of a failed download without folders of this machine, for somebody who cannot use them."""
    return _WRITTEN_TO.sub(" could not be stored", _BY_HAND.sub("", message))


@dataclass(frozen=True, slots=True)
class _Transfer:
    """One file on its way from a server."""

    file: WeightsFile
    out: IO[bytes]
    on_progress: OnProgress | None
    timeouts: Timeouts
    by_hand: str
    """A sentence about downloading the file by hand, for error messages."""

    def run(self, policy: RetryPolicy) -> None:
        """Write the file's bytes to ``out`` and check their hash, with retries."""
        import requests  # heavy, and needed only for a download

        attempts = 0

        with requests.Session() as session:

            def try_once() -> None:
                nonlocal attempts
                attempts += 1
                self._transfer(session)

            try:
                with_retries(try_once, policy, (_TransferError, requests.RequestException))
            except (_TransferError, requests.RequestException) as error:
                raise WeightsError(
                    f"{self.file.name} could not be downloaded in {attempts} attempts: "
                    f"{_reason(error, self.file, self.timeouts)}. Check the connection and try again. {self.by_hand}"
                ) from error

    def _transfer(self, session: requests.Session) -> None:
        """Request the missing part of the file once, append it to ``out`` and check the whole file."""
        file, out, by_hand = self.file, self.out, self.by_hand
        start = out.tell()
        # The byte counts of a compressed response would differ from those of the file.
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
        timeout = (self.timeouts.connect, self.timeouts.silence)
        with session.get(file.url, headers=headers, stream=True, timeout=timeout) as response:
            done = _begin(response, start, file, out, by_hand)
            resumed = done > 0
            for chunk in response.iter_content(_CHUNK):
                done += len(chunk)
                if done > file.size:
                    raise _other_bytes(
                        f"more than the {file.size:,} bytes of the official file", file, by_hand
                    )
                out.write(chunk)
                if self.on_progress is not None:
                    self.on_progress(file.name, done, file.size)
        if done < file.size:
            raise _TransferError(f"the connection was lost after {done:,} of {file.size:,} bytes")
        out.seek(0)
        digest = sha256_of_file(out)
        if digest != file.sha256:
            if resumed:  # the two parts may come from different servers; an attempt from the start decides
                _restart(out)
                raise _TransferError(f"its SHA-256 was {digest}, expected {file.sha256}")
            raise _other_bytes(f"bytes with SHA-256 {digest}, expected {file.sha256}", file, by_hand)


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


def _reason(error: Exception, file: WeightsFile, timeouts: Timeouts) -> str:
    """Return in plain words why a transfer failed."""
    import requests
    import urllib3

    host = urlsplit(file.url).netloc
    cause = error.args[0] if error.args else None
    if isinstance(error, requests.ConnectTimeout):
        return f"no connection to {host} within {timeouts.connect:g} s"
    # A stall within the body is raised as a ConnectionError that wraps urllib3's timeout.
    if isinstance(error, requests.Timeout) or isinstance(cause, urllib3.exceptions.TimeoutError):
        return f"{host} sent nothing for {timeouts.silence:g} s"
    if isinstance(error, requests.exceptions.SSLError):
        return f"the certificate of {host} was not accepted"
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return "the connection was lost during the transfer"
    if isinstance(error, requests.ConnectionError):
        return f"no connection to {host}"
    return str(error)
