"""A file over an object of a bucket: seekable, and read by ranges."""

from __future__ import annotations

import errno
import io
import tempfile
from typing import IO

from comic_upscale.errors import StorageError
from comic_upscale.storage.buckets import Bucket, Listed, NoRangesError, ReplacedError

_FIRST_BYTES, _MOST_BYTES = 256 << 10, 8 << 20
"""Bytes of a range: after a jump, and at most while the file is read on."""


def open_ranged(bucket: Bucket, listed: Listed) -> IO[bytes]:
    """Return an open file over an object. Its reads raise `OSError`, as those of a file of a disk.

    Args:
        bucket: where the object is.
        listed: the object; another one that replaces it meanwhile is an error and is never mixed in.
    """
    return io.BufferedReader(_RangedFile(bucket, listed), 1 << 16)


def as_os_error(error: StorageError) -> OSError:
    """Return the error of a bucket as one of a file."""
    number = errno.ESTALE if isinstance(error, ReplacedError) else errno.EIO
    return OSError(number, str(error))


class _RangedFile(io.RawIOBase):
    """Reads an object by ranges: small ones after a jump, larger ones while it is read on.

    A ZIP is read from its end, then member by member. So its directory takes two small requests, and its pages come
    in large ones.
    """

    def __init__(self, bucket: Bucket, listed: Listed) -> None:
        super().__init__()
        self._bucket, self._listed = bucket, listed
        self._position = 0
        self._start, self._held = 0, b""
        self._ahead = _FIRST_BYTES
        self._whole: IO[bytes] | None = None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._listed.size}[whence]
        if base + offset < 0:
            raise OSError(errno.EINVAL, "a seek to before the beginning")
        self._position = base + offset
        return self._position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        if self._position >= self._listed.size or not len(buffer):
            return 0
        if self._whole is None and not self._start <= self._position < self._start + len(self._held):
            self._request(len(buffer))
        if self._whole is not None:
            self._whole.seek(self._position)
            data = self._whole.read(len(buffer))
        else:
            offset = self._position - self._start
            data = self._held[offset : offset + len(buffer)]
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)

    def _request(self, wanted: int) -> None:
        reads_on = self._held and self._position == self._start + len(self._held)
        self._ahead = min(2 * self._ahead, _MOST_BYTES) if reads_on else _FIRST_BYTES
        end = min(self._position + max(wanted, self._ahead), self._listed.size)
        try:
            self._held = self._bucket.get_range(self._listed.key, self._position, end, self._listed.e_tag)
            self._start = self._position
        except NoRangesError:
            self._fetch()
        except StorageError as error:
            raise as_os_error(error) from error

    def _fetch(self) -> None:
        """Fetch all of it from a server that sends no ranges."""
        whole = tempfile.TemporaryFile(prefix="comic-upscale-")  # noqa: SIM115 - closed with this file
        try:
            self._bucket.fetch(self._listed, whole)
        except StorageError as error:
            whole.close()
            raise as_os_error(error) from error
        except BaseException:
            whole.close()
            raise
        self._whole = whole

    def close(self) -> None:
        if self._whole is not None:
            self._whole.close()
        self._held = b""
        super().close()
