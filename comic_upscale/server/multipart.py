"""Reading an upload: files are streamed into the storage while they arrive, and are never held in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from comic_upscale.server.files import FileWriter, StoredFile

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

FILE_FIELDS = frozenset(("file", "files", "image", "images", "file[]", "files[]"))
MOST_FIELDS = 100
LONGEST_FIELD = 64 << 10
"""Bytes of a field that is not a file."""
_FLUSH_AT = 1 << 20
"""Bytes that are collected before they go to the disk."""


class UploadError(Exception):
    """An upload cannot be accepted.

    Args:
        status: of the HTTP response.
        code: a short stable word.
        message: a sentence for the user.
        field: the field that it is about.
    """

    def __init__(self, status: int, code: str, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.field = status, code, message, field


@dataclass(frozen=True, slots=True)
class ReceivedFile:
    """A complete file of an upload."""

    name: str
    """As the client sent it."""
    file: StoredFile


@dataclass(slots=True)
class Received:
    """A complete upload."""

    fields: dict[str, str] = field(default_factory=dict)
    files: list[ReceivedFile] = field(default_factory=list)

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(received.file.size for received in self.files)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The limits of one upload."""

    max_bytes: int
    max_files: int
    accept: Callable[[str], bool]
    """Whether a file with this name is accepted."""


class TakesFiles(Protocol):
    """What an upload is read into: a `FileStore`, or a place for one request."""

    def create(self, key: str) -> FileWriter:
        """Begin a file."""

    def delete(self, key: str) -> None:
        """Delete a file."""


class UploadReader:
    """Reads one upload into a storage. On any error it leaves no file behind.

    Args:
        store: takes the files.
        key_of: returns the key of the file with a number.
        limits: of the upload.
    """

    def __init__(self, store: TakesFiles, key_of: Callable[[int], str], limits: Limits) -> None:
        self._store, self._key_of, self._limits = store, key_of, limits
        self._received = Received()
        self._part = _Part()
        self._header = (bytearray(), bytearray())
        self._writer: FileWriter | None = None
        self._stack = ExitStack()
        self._actions: list[Callable[[], None]] = []
        self._waiting = 0
        self._bytes = self._file_bytes = self._number = 0
        self._is_complete = False
        self._working: asyncio.Future[None] | None = None

    async def read(self, content_type: str, stream: AsyncIterator[bytes]) -> Received:
        """Read the body of a request to its end.

        Args:
            content_type: the header of the request.
            stream: the body.

        Raises:
            UploadError: the upload is malformed, too large, or has a file of another kind.
            OutputError: the storage cannot be written.
        """
        kind, parameters = parse_options_header(content_type)
        boundary = parameters.get(b"boundary")
        if kind != b"multipart/form-data" or not boundary:
            raise UploadError(415, "unsupported_media_type", "send the upload as multipart/form-data")
        try:
            try:
                parser = MultipartParser(boundary, self._callbacks())
                async for chunk in stream:
                    self._bytes += len(chunk)
                    if self._bytes > self._limits.max_bytes + MOST_FIELDS * LONGEST_FIELD:
                        raise self._too_large()
                    parser.write(chunk)
                    if self._waiting >= _FLUSH_AT:
                        await self._work()
                parser.finalize()
            except (FormParserError, ValueError) as error:
                raise UploadError(400, "malformed", f"the form cannot be read: {error}") from None
            await self._work()
            if not self._is_complete:
                raise UploadError(400, "malformed", "the form ends too early: send it again")
        except BaseException:
            # A client that went away cancels the request while a thread may still write.
            if self._working is not None:
                await asyncio.wait([self._working])
            await asyncio.to_thread(self._discard)
            raise
        return self._received

    def _callbacks(self) -> MultipartCallbacks:
        return {
            "on_part_begin": self._on_part_begin,
            "on_header_field": lambda data, start, end: self._header[0].extend(data[start:end]),
            "on_header_value": lambda data, start, end: self._header[1].extend(data[start:end]),
            "on_header_end": self._on_header_end,
            "on_headers_finished": self._on_headers_finished,
            "on_part_data": self._on_part_data,
            "on_part_end": self._on_part_end,
            "on_end": self._on_end,
        }

    # The parser calls these without waiting, so work on files is collected and done afterwards on a thread.

    def _on_part_begin(self) -> None:
        self._part = _Part()

    def _on_header_end(self) -> None:
        name, value = self._header
        if bytes(name).lower() == b"content-disposition":
            self._part.disposition = bytes(value)
        self._header = (bytearray(), bytearray())

    def _on_headers_finished(self) -> None:
        _, options = parse_options_header(self._part.disposition)
        name = options.get(b"name")
        if name is None:
            raise UploadError(400, "malformed", "a part of the form has no name")
        self._part.name = name.decode("utf-8", "replace")
        if b"filename" not in options and b"filename*" not in options:
            if len(self._received.fields) >= MOST_FIELDS:
                raise UploadError(400, "too_many_fields", f"a form has at most {MOST_FIELDS} fields")
            return
        if self._part.name not in FILE_FIELDS:
            raise UploadError(
                400, "unknown_field", "send files in the field file, files or image", self._part.name[:64]
            )
        self._begin_file((options.get(b"filename") or b"").decode("utf-8", "replace"))

    def _begin_file(self, filename: str) -> None:
        number = self._number
        self._number += 1
        if number >= self._limits.max_files:
            raise UploadError(
                413, "too_many_files", f"an upload has at most {self._limits.max_files} files", "file"
            )
        if not self._limits.accept(filename):
            raise UploadError(
                415, "unsupported_file",
                f"{filename[:100]!r} is neither an image nor a comic by its extension", "file",
            )  # fmt: skip
        self._part.filename = filename
        self._actions.append(lambda: self._open(number))

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        piece = bytes(data[start:end])
        if self._part.filename is None:
            self._part.text += piece
            if len(self._part.text) > LONGEST_FIELD:
                raise UploadError(
                    413,
                    "field_too_large",
                    f"a field has at most {LONGEST_FIELD >> 10} KiB",
                    self._part.name[:64],
                )
            return
        self._file_bytes += len(piece)
        if self._file_bytes > self._limits.max_bytes:
            raise self._too_large()
        self._waiting += len(piece)
        self._actions.append(lambda: self._append(piece))

    def _on_part_end(self) -> None:
        part = self._part
        if part.filename is None:
            self._received.fields[part.name] = part.text.decode("utf-8", "replace")
        else:
            name = part.filename
            self._actions.append(lambda: self._commit(name))

    def _on_end(self) -> None:
        self._is_complete = True

    # These run on a thread, in order.

    async def _work(self) -> None:
        actions, self._actions, self._waiting = self._actions, [], 0
        if actions:
            self._working = asyncio.ensure_future(asyncio.to_thread(_call_all, actions))
            await asyncio.shield(self._working)
            self._working = None

    def _open(self, number: int) -> None:
        self._writer = self._stack.enter_context(self._store.create(self._key_of(number)))

    def _append(self, piece: bytes) -> None:
        assert self._writer is not None
        self._writer.write(piece)

    def _commit(self, name: str) -> None:
        assert self._writer is not None
        self._received.files.append(ReceivedFile(name, self._writer.commit()))
        self._stack.close()
        self._writer = None

    def _discard(self) -> None:
        self._stack.close()
        for received in self._received.files:
            self._store.delete(received.file.key)

    def _too_large(self) -> UploadError:
        return UploadError(
            413, "too_large", f"an upload has at most {self._limits.max_bytes:,} bytes: send less, or several uploads",
            "file",
        )  # fmt: skip


@dataclass(slots=True)
class _Part:
    name: str = ""
    filename: str | None = None
    disposition: bytes | None = None
    text: bytearray = field(default_factory=bytearray)


def _call_all(actions: list[Callable[[], None]]) -> None:
    for action in actions:
        action()
