"""How a run and a worker of the same machine talk over a Unix socket: frames of JSON, each with maybe bytes.

Both sides belong to one user and one version: ``open`` names the version, and another one is refused. The worker asks
for tasks and for the files of pages when it has room for them, so neither side holds more than it can use.

* The run sends ``open``, ``accelerator``, ``process``, ``task``, ``end``, ``stop``, and ``page`` with a file.
* The worker sends ``opened``, ``accelerator``, ``preparing``, ``want`` (a task), ``read`` (a page), ``within`` (what is
  done of the pages in progress), ``outcome`` with the output, ``done`` and ``failed``.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import struct
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from comic_upscale import errors
from comic_upscale.errors import ComicUpscaleError, DeviceError, PageError, SettingsError
from comic_upscale.execution.base import PageOutcome, PageUpscaled
from comic_upscale.ledger.records import PageFailed, PageProgress, PageSkipped
from comic_upscale.version import __version__

VERSION = f"2 {__version__}"
"""Of the frames, and of the program: settings and outcomes of another version may mean something else."""
MOST_JSON = 4 << 20
"""Bytes of the JSON of a frame."""
MOST_BYTES = 2 << 30
"""Bytes behind it: the file of a page, or its output."""
LONGEST_PATH = 100
"""Bytes of the path of a socket; the system allows a few more."""
TASK_FIELDS = ("row_id", "source", "format", "extension", "sha256", "points")
"""The fields of a task that travel to a worker."""
TELL_SECONDS = 0.5
"""How often the progress within pages is told, if it has changed: as often as a run shows it."""
_HEADER = struct.Struct("!IQ")


class ProtocolError(ComicUpscaleError):
    """The other side sent something that is not a frame, or one that makes no sense."""


@dataclass(frozen=True, slots=True)
class Frame:
    """A message."""

    kind: str
    fields: Mapping[str, Any]
    data: bytes = b""


class Channel:
    """A connection over which both sides send frames.

    Args:
        reader: of the connection.
        writer: of the connection.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._lock = asyncio.Lock()

    async def send(self, kind: str, data: bytes = b"", **fields: Any) -> None:
        """Send a frame, and wait until the other side has room.

        Raises:
            OSError: the connection is gone.
        """
        text = json.dumps({"kind": kind, **fields}).encode()
        async with self._lock:
            self._writer.write(_HEADER.pack(len(text), len(data)) + text)
            if data:
                self._writer.write(data)
            await self._writer.drain()

    async def receive(self) -> Frame:
        """Return the next frame.

        Raises:
            EOFError: the other side has hung up.
            OSError: the connection is gone.
            ProtocolError: this is no frame, or a frame that is too large.
        """
        length, size = _HEADER.unpack(await self._reader.readexactly(_HEADER.size))
        if length > MOST_JSON or size > MOST_BYTES:
            raise ProtocolError(f"the other side announced {length + size} bytes, which is too much")
        try:
            fields = json.loads(await self._reader.readexactly(length))
            kind = fields.pop("kind")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise ProtocolError("the other side sent something that is not a message") from None
        return Frame(str(kind), fields, await self._reader.readexactly(size))

    async def close(self) -> None:
        """Hang up."""
        self._writer.close()
        try:
            await self._writer.wait_closed()
        except OSError:
            return


def check_socket_path(path: Path) -> Path:
    """Return an absolute path that can be that of a socket.

    Raises:
        SettingsError: it is too long, or this system has no such sockets.
    """
    if not hasattr(socket, "AF_UNIX"):
        raise SettingsError("this system has no Unix sockets: leave the socket of a worker out")
    path = path.absolute()
    if len(os.fsencode(path)) > LONGEST_PATH:
        raise SettingsError(
            f"the path of a socket has at most {LONGEST_PATH} bytes: choose one shorter than {path}"
        )
    return path


def peer_uid(connected: socket.socket) -> int | None:
    """Return the user at the other end of a Unix socket; None where the system does not tell."""
    if not hasattr(socket, "SO_PEERCRED"):
        return None
    packed = connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return int(struct.unpack("3i", packed)[1])


def check_peer(connected: socket.socket) -> bool:
    """Return whether the other end of a connection belongs to this user, or to root, who may do anything."""
    uid = peer_uid(connected)
    return uid is None or uid in (0, os.geteuid())


def outcome_fields(outcome: PageOutcome) -> tuple[dict[str, Any], bytes]:
    """Return an outcome as JSON, and its output."""
    if isinstance(outcome, PageUpscaled):
        facts = outcome.facts()
        facts = {name: dict(value) if isinstance(value, Mapping) else value for name, value in facts.items()}
        return {"state": "upscaled", "facts": facts, "sha256": outcome.sha256}, outcome.data
    state = "failed" if isinstance(outcome, PageFailed) else "skipped"
    return {"state": state, "facts": asdict(outcome)}, b""


def outcome_of(frame: Frame, made_at: float) -> PageOutcome:
    """Return the outcome in a frame.

    Args:
        frame: from a worker.
        made_at: when it arrived, by ``time.perf_counter``.

    Raises:
        ProtocolError: it contains no outcome.
    """
    try:
        facts: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in frame.fields["facts"].items()
        }
        match frame.fields["state"]:
            case "upscaled":
                return PageUpscaled(data=frame.data, sha256=frame.fields["sha256"], made_at=made_at, **facts)
            case "failed":
                return PageFailed(**facts)
            case "skipped":
                return PageSkipped(**facts)
    except (KeyError, TypeError, AttributeError):
        pass
    raise ProtocolError("an outcome arrived that cannot be read")


def within_fields(within: Mapping[int, PageProgress]) -> list[list[Any]]:
    """Return what is done of pages, by row id, as JSON."""
    return [[row_id, asdict(page)] for row_id, page in within.items()]


def within_of(told: Any) -> dict[int, PageProgress]:
    """Return what is done of pages, by row id, from JSON.

    Raises:
        ProtocolError: it is something else.
    """
    try:
        return {
            int(row_id): PageProgress(
                source=str(page["source"]),
                unit=str(page["unit"]),
                done=float(page["done"]),
                total=int(page["total"]),
            )
            for row_id, page in told
        }
    except (KeyError, TypeError, ValueError, OverflowError):
        raise ProtocolError("the progress of pages cannot be read") from None


def error_fields(error: ComicUpscaleError) -> dict[str, Any]:
    """Return an error as JSON."""
    fields: dict[str, Any] = {"error": type(error).__name__, "message": str(error)}
    return {**fields, "page_kind": error.kind} if isinstance(error, PageError) else fields


def error_of(fields: Mapping[str, Any]) -> ComicUpscaleError:
    """Return the error in the fields of a frame; a `DeviceError` for one of an unknown kind."""
    message = str(fields.get("message", "the worker failed without a reason"))
    if "page_kind" in fields:
        return PageError(str(fields["page_kind"]), message)
    kind = getattr(errors, str(fields.get("error")), None)
    known = isinstance(kind, type) and issubclass(kind, ComicUpscaleError) and not issubclass(kind, PageError)
    return kind(message) if known and kind is not None else DeviceError(message)
