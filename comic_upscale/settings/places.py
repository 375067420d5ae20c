"""Addresses of buckets, as text and as the paths that stand for them in the settings of a job."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path, PurePath

from comic_upscale.errors import SettingsError

_ADDRESS = re.compile(r"(s3|gs|az)://([a-z0-9][a-z0-9.-]{1,62})(?:/(.*))?")
_BUCKETS = {("s3:",), ("gs:",), ("az:",)}


@dataclass(frozen=True, slots=True)
class Place:
    """A prefix of a bucket, or one object."""

    kind: str
    """``s3``, ``gs`` or ``az``."""
    bucket: str
    prefix: str
    """Without a slash at either end; empty for the whole bucket."""

    @property
    def address(self) -> str:
        """The address, as a user writes it."""
        return f"{self.kind}://{self.bucket}/{self.prefix}".rstrip("/")

    def contains(self, other: Place) -> bool:
        """Return whether another place is this one or below it."""
        same = (self.kind, self.bucket) == (other.kind, other.bucket)
        return same and f"{other.prefix}/".startswith(f"{self.prefix}/" if self.prefix else "")

    def below(self, name: str) -> Place:
        """Return the place with a name below this one."""
        return Place(self.kind, self.bucket, f"{self.prefix}/{name}".strip("/"))


def is_address(text: str) -> bool:
    """Return whether a text means a bucket rather than a folder."""
    return "://" in text


def parse_place(text: str) -> Place:
    """Return the place that an address names.

    Raises:
        SettingsError: it names none, or its path has parts such as ``..``.
    """
    found = _ADDRESS.fullmatch(text.strip())
    parts = [] if found is None or not found[3] else found[3].strip("/").split("/")
    odd = any(part in ("", ".", "..") or not part.isprintable() for part in parts)
    if found is None or odd:
        raise SettingsError(f"{text[:200]!r} is no address of a bucket: write s3://bucket/prefix")
    return Place(found[1], found[2], "/".join(parts))


def is_bucket(path: PurePath) -> bool:
    """Return whether a path stands for a place in a bucket, as ``Path("s3://bucket/pages")`` does."""
    return path.parts[:1] in _BUCKETS and len(path.parts) > 1


def place_of(path: PurePath) -> Place:
    """Return the place that a path stands for, which `is_bucket` has confirmed. Its name is not checked."""
    kind, bucket, *parts = path.parts
    return Place(kind.removesuffix(":"), bucket, "/".join(parts))


def path_of(place: Place) -> Path:
    """Return the path that stands for a place: ``s3:/bucket/pages``. No file of this machine has it."""
    return Path(f"{place.kind}:/{place.bucket}/{place.prefix}")
