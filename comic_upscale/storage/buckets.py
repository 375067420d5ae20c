"""Buckets: S3 and services that speak like it, Google Cloud Storage, Azure. Jobs and the server share this module.

Nothing here relies on conditional writes, which some servers ignore. An object appears when its upload is complete.
"""

from __future__ import annotations

import mimetypes
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import IO, Any, TypeVar

from comic_upscale.errors import SettingsError, StorageError, UnreachableStorageError
from comic_upscale.retries import RetryPolicy, with_retries
from comic_upscale.settings.places import Place

T = TypeVar("T")

PART_BYTES = 8 << 20
"""Bytes of a part of an upload. S3 allows 10,000 parts, so a file may have 80 GB. A smaller file is one request."""
PARTS_IN_FLIGHT = 2
READ_BYTES = 4 << 20
"""Bytes of a range that is requested at once."""
LONGEST_KEY = 1024
"""Bytes of a key, on every service."""
MARK = "comicupscale"
"""The metadata of every output of ours. Azure allows letters and digits only."""

_QUERY = re.compile(r"\?\S*")
"""Of an address in a message. It may contain a signature."""
_LONGEST_MESSAGE = 400
_NO_BUCKET = ("NoSuchBucket", "ContainerNotFound")
"""How S3 and Google, and Azure, name a bucket that does not exist."""
_NO_CREDENTIALS = "169.254.169.254"
"""The address that is asked for the rights of a rented machine where nothing else gives any."""
_LISTED_AT_ONCE = 8
_LISTED_BY_REQUEST = 1_000
_ENOUGH_FOLDERS = 16
"""Folders that are listed in parallel: with fewer, the listing first goes one level deeper."""
_DEEPEST = 3

CLIENT_OPTIONS: dict[str, Any] = {"connect_timeout": "10s", "timeout": "120s", "allow_http": True}
RETRIES: dict[str, Any] = {
    "max_retries": 5,
    "retry_timeout": timedelta(seconds=60),
    "backoff": {
        "init_backoff": timedelta(milliseconds=200), "max_backoff": timedelta(seconds=10), "base": 2,
    },
}  # fmt: skip
"""A request is tried again after an error of the server or the connection."""
PATIENCE = RetryPolicy(seconds=180, attempts=6, first_pause=0.5, longest_pause=20)
"""How a job repeats a request that failed in spite of `RETRIES`, such as one whose answer was cut off."""


class NoRangesError(StorageError):
    """The server answered a request for a range without saying that the answer is one, as `rclone serve s3` does."""


class ReplacedError(StorageError):
    """An object was replaced by another one since it was listed."""


@dataclass(frozen=True, slots=True)
class Listed:
    """An object, as a listing shows it."""

    key: str
    size: int
    """Bytes."""
    mtime_ns: int
    """Time of the last change in whole seconds, as nanoseconds since the epoch: requests differ in what is below."""
    e_tag: str | None = None
    """Changes with the content."""


def open_bucket(place: Place, config: Any = None) -> Any:
    """Return the library's store for a place. Its keys are relative to the prefix of the place.

    Args:
        place: a prefix of a bucket.
        config: of S3, by the names of the library; None for an empty one. The library finds the rest in the standard
            variables (``AWS_ACCESS_KEY_ID``, ``AWS_REGION``, ``AWS_ENDPOINT_URL`` ...), and asks a rented machine for
            its role.

    Raises:
        SettingsError: the library is not installed, or a setting is missing.
    """
    try:
        from obstore.exceptions import BaseError
        from obstore.store import AzureStore, GCSStore, S3Store
    except ImportError:
        raise SettingsError("a bucket needs the package obstore: pip install '.[s3]' in a clone") from None

    common: dict[str, Any] = {
        "prefix": place.prefix or None, "client_options": CLIENT_OPTIONS, "retry_config": RETRIES,
    }  # fmt: skip
    try:
        if place.kind == "gs":
            return GCSStore(place.bucket, **common)
        if place.kind == "az":
            return AzureStore(place.bucket, **common)
        return S3Store(place.bucket, **common, config=config)
    except BaseError as error:
        # The library's first line names what is missing; the rest may repeat the configuration.
        raise SettingsError(f"{place.address}: {str(error).strip().partition(chr(10))[0][:200]}") from None


def translated(call: Callable[[], Any]) -> Any:
    """Call the library for buckets, and translate its errors.

    Raises:
        FileNotFoundError: there is no such object.
        StorageError: everything else.
    """
    from obstore.exceptions import (
        BaseError,
        InvalidPathError,
        NotFoundError,
        PermissionDeniedError,
        PreconditionError,
        UnauthenticatedError,
    )

    try:
        return call()
    except (NotFoundError, FileNotFoundError) as error:
        if any(code in str(error) for code in _NO_BUCKET):
            raise StorageError("the bucket does not exist: create it, or correct its name") from None
        raise FileNotFoundError(_first_line(error)) from None
    except (PermissionDeniedError, UnauthenticatedError) as error:
        raise StorageError(
            f"the storage refuses the request: check its keys and rights ({_first_line(error)})"
        ) from None
    except InvalidPathError as error:
        raise StorageError(
            "an object has a name that cannot be used, with an empty part, a dot alone or a control character: "
            f"rename it, or choose another prefix ({_first_line(error)})"
        ) from None
    except PreconditionError:
        raise ReplacedError("the object was replaced since it was listed") from None
    except BaseError as error:
        if "non-partial response" in str(error):
            raise NoRangesError("the storage does not send ranges") from None
        if _NO_CREDENTIALS in str(error):
            raise StorageError(
                f"no credentials for the bucket were found: set {_login_variables(error)}, or run on a machine with a "
                "role"
            ) from None
        # A listing has no kinds of errors in the library.
        if " 403 Forbidden" in str(error) or " 401 Unauthorized" in str(error):
            raise StorageError(
                f"the storage refuses the request: check its keys and rights ({_first_line(error)})"
            ) from None
        if " 404 Not Found" in str(error):
            raise StorageError("the bucket does not exist: create it, or correct its name") from None
        raise UnreachableStorageError(f"the storage cannot be used: {_first_line(error)}") from None


def sent(put: Callable[[], Any]) -> Any:
    """Call the library to store an object, as `translated` does.

    Raises:
        StorageError: it may not be stored.
    """
    try:
        return translated(put)
    except FileNotFoundError as error:
        # The parts of an upload are gone. If the answer to the last request was lost, they are the object now.
        raise UnreachableStorageError(f"the storage lost the parts of an upload: {error}") from None


def _login_variables(error: Exception) -> str:
    """Return the variables with the login of the service that an error is about."""
    if "Generic GCS error" in str(error):
        return "GOOGLE_APPLICATION_CREDENTIALS"
    if "Azure error" in str(error):
        return "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY"
    return "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"


def _first_line(error: Exception) -> str:
    return _QUERY.sub("", str(error).strip().partition("\n")[0])[:_LONGEST_MESSAGE]


class Bucket:
    """The objects of a bucket. All methods block, and may be called from any thread; each repeats a failed request.

    Each raises `StorageError` if the bucket cannot be used.

    Args:
        place: the bucket. Keys are relative to its prefix.
        patience: how a failed request is repeated; None for `PATIENCE`.
    """

    def __init__(self, place: Place, patience: RetryPolicy | None = None) -> None:
        self.place = place
        self._patience = patience or PATIENCE
        self._opened: Any = None

    @property
    def _store(self) -> Any:
        if self._opened is None:
            self._opened = open_bucket(self.place)
        return self._opened

    def _try(self, call: Callable[[], T]) -> T:
        def once() -> T:
            found: T = translated(call)
            return found

        return with_retries(once, self._patience, UnreachableStorageError)

    def head(self, key: str) -> Listed:
        """Return an object without its content; raises `FileNotFoundError`."""
        import obstore

        return _listed(self._try(lambda: obstore.head(self._store, key)))

    def marks(self, key: str) -> dict[str, str]:
        """Return the metadata of an object; raises `FileNotFoundError`."""
        import obstore

        found = self._try(lambda: obstore.get(self._store, key, options={"head": True}))
        return {str(name): str(value) for name, value in found.attributes.items()}

    def get(self, key: str) -> bytes:
        """Return the content of an object; raises `FileNotFoundError`."""
        import obstore

        return bytes(self._try(lambda: obstore.get(self._store, key).bytes()))

    def get_range(self, key: str, start: int, end: int, e_tag: str | None = None) -> bytes:
        """Return a part of an object.

        Args:
            key: of the object.
            start: the first byte.
            end: the byte behind the last.
            e_tag: of the object that is meant.

        Raises:
            FileNotFoundError: there is no such object.
            ReplacedError: it has another ``e_tag`` now.
            NoRangesError: the server sends no ranges.
        """
        import obstore

        options: Any = {"range": (start, end), **({"if_match": e_tag} if e_tag else {})}

        def get() -> bytes:
            data = bytes(obstore.get(self._store, key, options=options).bytes())
            if len(data) != end - start:
                raise UnreachableStorageError("the storage sent less than was requested")
            return data

        return self._try(get)

    def fetch(self, listed: Listed, target: IO[bytes]) -> None:
        """Copy an object into a file, range by range; errors as for `get_range`."""
        position = 0
        while position < listed.size:
            end = min(position + READ_BYTES, listed.size)
            try:
                target.write(self.get_range(listed.key, position, end, listed.e_tag))
            except NoRangesError:
                self._fetch_whole(listed.key, target)
                return
            position = end

    def _fetch_whole(self, key: str, target: IO[bytes]) -> None:
        import obstore

        def stream() -> None:
            target.seek(0)
            target.truncate()
            found = obstore.get(self._store, key)
            for piece in found.stream(min_chunk_size=READ_BYTES):
                target.write(piece)
            if target.tell() != found.meta["size"]:
                raise UnreachableStorageError("the storage sent less than the whole object")

        self._try(stream)

    def put(self, key: str, data: bytes | IO[bytes], marks: Mapping[str, str] | None = None) -> Listed:
        """Write an object, or replace the one of this name. It appears whole.

        Args:
            key: of the object.
            data: all of it; a file is read from its beginning.
            marks: its metadata.

        Returns:
            The object, without its time.
        """
        import obstore

        kind, _ = mimetypes.guess_type(key)
        attributes: Any = {**(marks or {}), **({"Content-Type": kind} if kind else {})}
        size = len(data) if isinstance(data, bytes) else data.seek(0, 2)

        def put() -> Any:
            if not isinstance(data, bytes):
                data.seek(0)
            return obstore.put(
                self._store, key, data, attributes=attributes, use_multipart=size > PART_BYTES,
                chunk_size=PART_BYTES, max_concurrency=PARTS_IN_FLIGHT,
            )  # fmt: skip

        found = self._try(lambda: sent(put))
        return Listed(key, size, 0, found.get("e_tag"))

    def copy(self, key: str, to: str) -> None:
        """Copy an object in the bucket; one of the new name is replaced. Raises `FileNotFoundError`."""
        import obstore

        self._try(lambda: obstore.copy(self._store, key, to))

    def delete(self, keys: Iterable[str]) -> None:
        """Delete objects; those that do not exist are ignored."""
        import obstore

        for key in keys:
            try:
                self._try(partial(obstore.delete, self._store, [key]))
            except FileNotFoundError:
                continue

    def walk(self, prefix: str = "") -> Iterator[Listed]:
        """Yield all objects below a prefix, one request after the other. A listing that breaks off begins again."""
        import obstore

        pages: Any = None
        # It cannot go on after its last object: not all services list in the order of names.
        seen: set[str] = set()

        def next_page() -> Any:
            nonlocal pages
            if pages is None:
                pages = iter(obstore.list(self._store, prefix=prefix or None, chunk_size=_LISTED_BY_REQUEST))
            try:
                return translated(lambda: next(pages, None))
            except StorageError:
                # A page cannot be asked for twice.
                pages = None
                raise

        while (page := with_retries(next_page, self._patience, UnreachableStorageError)) is not None:
            for found in page:
                if found["path"] not in seen:
                    seen.add(found["path"])
                    yield _listed(found)

    def list_folder(self, folder: str) -> tuple[list[str], list[Listed]]:
        """Return the folders and the objects directly in a folder, with full keys."""
        import obstore

        found = self._try(lambda: obstore.list_with_delimiter(self._store, prefix=folder or None))
        return list(found["common_prefixes"]), [_listed(each) for each in found["objects"]]

    def list_parallel(self, prefix: str) -> list[Listed]:
        """Return all objects below a prefix. Its folders are listed in parallel, a thousand objects a request."""
        objects: list[Listed] = []
        folders = [prefix]
        with ThreadPoolExecutor(_LISTED_AT_ONCE, thread_name_prefix="listing") as pool:
            for _ in range(_DEEPEST):
                if not folders or len(folders) >= _ENOUGH_FOLDERS:
                    break
                found = list(pool.map(self.list_folder, folders))
                folders = [folder for inside, _ in found for folder in inside]
                objects += [each for _, inside in found for each in inside]
            for listed in pool.map(lambda folder: [*self.walk(folder)], folders):
                objects += listed
        return objects


def _listed(found: Mapping[str, Any]) -> Listed:
    changed: datetime = found["last_modified"]
    return Listed(
        found["path"], int(found["size"]), int(changed.timestamp()) * 1_000_000_000, found.get("e_tag")
    )
