"""Fetching a file of weights: retried, resumed, checked by hash, and put in place whole or not at all.

``requests`` rather than ``pooch``, which was weighed first: pooch has no resume, tries a 404 three
times, writes to standard error through a logger of its own, and leaves its files readable by their
owner alone, which spoils a cache that several users or a container share.
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
"""Called with the file's name, the bytes done and the bytes in all; done falls when a transfer restarts."""

_CHUNK = 256 * 1024


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a download keeps trying. Times are in seconds."""

    tries: int = 3
    """How often the file is asked for, at least once."""
    pause: float = 1.0
    """The wait before the second try; it doubles before each further one."""
    connect_timeout: float = 10.0
    """How long a connection may take to come about."""
    silence_timeout: float = 30.0
    """How long the server may send nothing."""


PATIENCE = Patience()


class _TransferError(Exception):
    """This try failed and the next may not."""


def fetch(
    file: WeightsFile,
    cache: Path,
    on_progress: OnProgress | None = None,
    *,
    patience: Patience = PATIENCE,
) -> Path:
    """Return the path of the file in the cache, downloaded unless it is there with the right hash.

    The file appears under its name only whole and checked, so several processes may fetch it at once;
    one with other bytes is replaced. A transfer that breaks off is taken up where it stopped.

    Args:
        file: what to fetch; not one that comes with the package, which is to be had nowhere else.
        cache: the folder to put it in; made when needed.
        on_progress: called as bytes arrive, on this thread.
        patience: tries and timeouts.

    Raises:
        WeightsError: there is no connection, the server does not have the file or sends other bytes,
            or the folder cannot be written. The message says how to get the file by hand.
    """
    target = cache / file.name
    if target.is_file() and sha256_of(target) == file.sha256:
        return target
    by_hand = f"Or fetch {file.url} by hand and put it at {target}."
    try:
        cache.mkdir(parents=True, exist_ok=True)
        # A name of its own for each process, and one that nobody takes for weights.
        with open_part(target, secrets.token_hex(4)) as part:
            _download(file, part.file, on_progress, patience, by_hand)
            part.flush()
            part.move_to(target)
    except OSError as error:
        raise WeightsError(
            f"{file.name} could not be written to {cache}: {error.strerror or error}. Free "
            f"{file.size / 1e6:.0f} MB there and allow writing, or choose another folder. {by_hand}"
        ) from error
    return target


def _download(
    file: WeightsFile, out: IO[bytes], on_progress: OnProgress | None, patience: Patience, by_hand: str
) -> None:
    """Fill ``out`` with the file's bytes, hash checked, in as many tries as allowed."""
    import requests  # heavy, and needed only where something is fetched

    with requests.Session() as session:
        for attempt in range(1, patience.tries + 1):
            try:
                _transfer(session, file, out, on_progress, patience, by_hand)
                return
            except (_TransferError, requests.RequestException) as error:
                if attempt == patience.tries:
                    raise WeightsError(
                        f"{file.name} could not be fetched in {attempt} tries: "
                        f"{_reason(error, file, patience)}. Check the connection and try again. {by_hand}"
                    ) from error
                time.sleep(patience.pause * 2 ** (attempt - 1))


def _transfer(
    session: requests.Session,
    file: WeightsFile,
    out: IO[bytes],
    on_progress: OnProgress | None,
    patience: Patience,
    by_hand: str,
) -> None:
    """Ask once for what is still missing of the file, append it to ``out`` and check the whole."""
    start = out.tell()
    # A compressed answer would count other bytes than the file has.
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
    timeout = (patience.connect_timeout, patience.silence_timeout)
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
        raise _TransferError(f"the connection broke off after {done:,} of {file.size:,} bytes")
    out.seek(0)
    found = sha256_of_file(out)
    if found != file.sha256:
        if resumed:  # the two halves may come from two servers that disagree: one clean try decides
            _restart(out)
            raise _TransferError(f"its SHA-256 was {found}, expected {file.sha256}")
        raise _other_bytes(f"bytes with SHA-256 {found}, expected {file.sha256}", file, by_hand)


def _begin(response: requests.Response, start: int, file: WeightsFile, out: IO[bytes], by_hand: str) -> int:
    """Judge the answer's head, bring ``out`` to where its body goes, and return that position in bytes."""
    status = response.status_code
    if status == 206 and response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
        position = start
    else:
        _restart(out)
        position = 0
    if status in (206, 416) and not position:
        raise _TransferError("the server would not continue a broken transfer")
    if status >= 500 or status in (408, 429):
        raise _TransferError(f"the server answered {status} {response.reason}")
    if status not in (200, 206):
        raise WeightsError(
            f"{file.name} could not be fetched: the server answered {status} {response.reason}. "
            f"If the file has moved, look for a copy with SHA-256 {file.sha256}. {by_hand}"
        )
    length = response.headers.get("Content-Length", "")
    if length.isdecimal() and position + int(length) != file.size:
        raise _other_bytes(f"{int(length):,} bytes where {file.size - position:,} were due", file, by_hand)
    return position


def _restart(out: IO[bytes]) -> None:
    out.seek(0)
    out.truncate()


def _other_bytes(what: str, file: WeightsFile, by_hand: str) -> WeightsError:
    return WeightsError(
        f"The server sent {what}, so it is not {file.name}: nothing was kept. A proxy or a login page "
        f"may be answering in its place; try again from another network. {by_hand}"
    )


def _reason(error: Exception, file: WeightsFile, patience: Patience) -> str:
    """Say in plain words why a transfer failed."""
    import requests
    import urllib3

    host = urlsplit(file.url).netloc
    cause = error.args[0] if error.args else None
    if isinstance(error, requests.ConnectTimeout):
        return f"no connection to {host} within {patience.connect_timeout:g} s"
    # A stall within the body reaches us as a ConnectionError that holds urllib3's timeout.
    if isinstance(error, requests.Timeout) or isinstance(cause, urllib3.exceptions.TimeoutError):
        return f"{host} sent nothing for {patience.silence_timeout:g} s"
    if isinstance(error, requests.exceptions.SSLError):
        return f"the certificate of {host} was not accepted"
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return "the connection broke off on the way"
    if isinstance(error, requests.ConnectionError):
        return f"no connection to {host}"
    return str(error)
