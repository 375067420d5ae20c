"""What the buckets of a job allow: each step is tried, and the first one that fails names the right that it needs."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias, TypeVar

from comic_upscale.errors import StorageError
from comic_upscale.settings.paths import MARKER_FOLDER
from comic_upscale.settings.places import Place, place_of
from comic_upscale.storage.buckets import MARK, PART_BYTES, Bucket, Listed, NoRangesError

T = TypeVar("T")

OnStep: TypeAlias = Callable[[str], None]
"""Takes a line of text about each step."""

_SMALL = b"comic-upscale"
_LARGE = bytes(range(256)) * ((PART_BYTES + (1 << 20)) // 256)
"""Sent in parts."""


def check_input(address: Path, on_step: OnStep, bucket: Bucket | None = None) -> None:
    """List a place in a bucket, and read a part of its first object. Blocks.

    Args:
        address: the path that stands for it.
        on_step: called after each step.
        bucket: the whole bucket; None to open it.

    Raises:
        StorageError: a step failed.
    """
    place = place_of(address)
    bucket = bucket or Bucket(Place(place.kind, place.bucket, ""))
    folders, objects = _try("list", "s3:ListBucket", lambda: bucket.list_folder(place.prefix))
    first = next((each for each in objects if each.size), None)
    if first is None and (folders or place.prefix):
        first = _try("list", "s3:ListBucket", lambda: _first_object(bucket, place.prefix))
    on_step("list: ok")
    if first is None:
        on_step("read: not tried, there is no object")
        return
    found = first
    end = min(found.size, 100)
    try:
        _try("read", "s3:GetObject", lambda: bucket.get_range(found.key, 0, end))
        on_step("read: ok, by ranges")
    except NoRangesError:
        _try("read", "s3:GetObject", lambda: bucket.get(found.key))
        on_step("read: ok, without ranges: volumes are fetched whole")


def check_output(address: Path, on_step: OnStep, bucket: Bucket | None = None) -> None:
    """Write, read, list, copy and delete objects below a place in a bucket. Blocks; arguments as for `check_input`.

    Raises:
        StorageError: a step failed.
    """
    place = place_of(address)
    bucket = bucket or Bucket(Place(place.kind, place.bucket, ""))
    folder = place.below(f"{MARKER_FOLDER}/check-{secrets.token_hex(8)}").prefix
    small, large, copied = (f"{folder}/{name}" for name in ("small", "large", "copied"))
    try:
        _try("write", "s3:PutObject", lambda: bucket.put(small, _SMALL, {MARK: "check"}))
        on_step("write: ok")
        rights = "s3:PutObject and s3:AbortMultipartUpload"
        _try("write a large object", rights, lambda: bucket.put(large, _LARGE))
        on_step("write a large object: ok")
        _require(_try("read", "s3:GetObject", lambda: bucket.get(large)) == _LARGE)
        on_step("read: ok")
        listed = _try("list", "s3:ListBucket", lambda: {each.key for each in bucket.walk(folder)})
        _require({small, large} <= listed)
        on_step("list: ok")
        _try("copy", "s3:GetObject and s3:PutObject", lambda: bucket.copy(small, copied))
        _require(bucket.get(copied) == _SMALL)
        on_step("copy: ok")
        keeps = bucket.marks(small).get(MARK) == "check"
        on_step(
            "metadata: ok"
            if keeps
            else "metadata: not kept, so after a crash another machine may refuse a few outputs as foreign"
        )
    except BaseException:
        with contextlib.suppress(StorageError):
            bucket.delete([small, large, copied])
        raise
    _try("delete", "s3:DeleteObject", lambda: bucket.delete([small, large, copied]))
    _require(not [*bucket.walk(folder)])
    on_step("delete: ok")


def _first_object(bucket: Bucket, prefix: str) -> Listed | None:
    return next((each for each in bucket.walk(prefix) if each.size), None)


def _require(is_so: bool) -> None:
    if not is_so:
        raise StorageError("the bucket did not do what it said: its service cannot be used")


def _try(name: str, right: str, step: Callable[[], T]) -> T:
    try:
        return step()
    except NoRangesError:
        raise
    except (StorageError, FileNotFoundError) as error:
        raise StorageError(
            f"the bucket does not allow to {name}: {error}. On Amazon S3 this needs the right {right}"
        ) from error
