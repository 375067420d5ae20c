"""Whether a server may do with its storage all that it needs: write, read, list and delete."""

from __future__ import annotations

from collections.abc import Callable

from comic_upscale.errors import OutputError, StorageError
from comic_upscale.server.files import FileStore
from comic_upscale.server.ids import new_id

SMALL, LARGE = b"comic-upscale", 10 << 20
"""A small file, and the bytes of one that a bucket gets in parts."""
_RIGHTS = {
    "write": "s3:PutObject",
    "write a large file": "s3:PutObject and s3:AbortMultipartUpload",
    "read": "s3:GetObject",
    "list": "s3:ListBucket",
    "delete": "s3:DeleteObject",
}
"""The rights on Amazon S3; other services have similar ones."""


def check_storage(store: FileStore, on_step: Callable[[str], None]) -> None:
    """Write, read, list and delete two files. Blocks.

    Args:
        store: of the server.
        on_step: called with each step that succeeded: ``write``, ``read``, ...

    Raises:
        StorageError: a step failed. The message names the step and the right that it needs.
    """
    key, large = (f"check/{new_id()}/{number}" for number in range(2))
    pattern = bytes(range(256)) * 4096

    def write_large() -> None:
        with store.create(large) as writer:
            for _ in range(LARGE // len(pattern)):
                writer.write(pattern)
            writer.commit()

    def read() -> None:
        _require(b"".join(store.read(key, 0, len(SMALL))) == SMALL)
        _require(b"".join(store.read(large, LARGE - 1000, LARGE)) == pattern[-1000:])
        _require(store.size(large) == LARGE)

    def delete() -> None:
        for each in (key, large):
            store.delete(each)
            _require(store.size(each) is None)

    steps: tuple[tuple[str, Callable[[], None]], ...] = (
        ("write", lambda: _write(store, key)),
        ("write a large file", write_large),
        ("read", read),
        ("list", lambda: _require({key, large} <= {file.key for file in store.list()})),
        ("delete", delete),
    )
    try:
        for name, step in steps:
            _try(name, step)
            on_step(name)
    finally:
        for each in (key, large):
            store.delete(each)


def _write(store: FileStore, key: str) -> None:
    with store.create(key) as writer:
        writer.write(SMALL)
        writer.commit()


def _require(is_so: bool) -> None:
    if not is_so:
        raise StorageError("the storage did not do what it said")


def _try(name: str, step: Callable[[], None]) -> None:
    try:
        step()
    except (OutputError, OSError) as error:
        raise StorageError(
            f"the storage does not let this server {name}: {error}. On Amazon S3 this needs the right {_RIGHTS[name]}"
        ) from error
