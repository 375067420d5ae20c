"""Which storage a server uses: a folder of the local disk, or a bucket."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from comic_upscale.errors import OutputError, SettingsError
from comic_upscale.server.files import FileStore, LocalFiles

if TYPE_CHECKING:
    from comic_upscale.server.settings import ServerSettings

_NAME = re.compile(r"[a-z0-9][a-z0-9.-]{1,62}")


def open_files(settings: ServerSettings) -> FileStore:
    """Return the storage of a server.

    Raises:
        SettingsError: the address of a bucket is not valid, or its library is not installed.
        OutputError: the folder cannot be created.
    """
    address = settings.storage_address
    if "://" not in address:
        try:
            return LocalFiles(Path(address))
        except OSError as error:
            raise OutputError(f"{address} cannot be created: {error.strerror or error}") from error
    from comic_upscale.server.object_files import ObjectFiles

    return ObjectFiles(open_bucket(settings, address))


def open_bucket(settings: ServerSettings, address: str) -> Any:
    """Return a bucket with the prefix of an address, for the library.

    Raises:
        SettingsError: the address is not valid, or the library is not installed.
    """
    try:
        from obstore.exceptions import BaseError
        from obstore.store import AzureStore, GCSStore, S3Store
    except ImportError:
        raise SettingsError(
            "a bucket needs the package obstore: pip install '.[server,s3]' in a clone"
        ) from None

    from comic_upscale.server.object_files import CLIENT_OPTIONS, RETRIES

    kind, _, rest = address.partition("://")
    bucket, _, prefix = rest.partition("/")
    if not _NAME.fullmatch(bucket):
        raise SettingsError(
            f"{address}: {bucket!r} is not the name of a bucket; write {kind}://bucket/prefix"
        )
    common: dict[str, Any] = {
        "prefix": prefix.strip("/") or None, "client_options": CLIENT_OPTIONS, "retry_config": RETRIES,
    }  # fmt: skip
    try:
        if kind == "gs":
            return GCSStore(bucket, **common)
        if kind == "az":
            return AzureStore(bucket, **common)
        return S3Store(bucket, **common, config=_s3_config(settings))
    except BaseError as error:
        # The library's first line names what is missing; the rest may repeat the configuration.
        raise SettingsError(f"{address}: {str(error).strip().partition(chr(10))[0][:200]}") from None


def _s3_config(settings: ServerSettings) -> Any:
    """Return what the settings say; the library finds the rest, such as the role of a machine."""
    given = {
        "endpoint": settings.s3_endpoint,
        # Servers other than Amazon's mostly have no regions, and a signature names one.
        "region": settings.s3_region or ("us-east-1" if settings.s3_endpoint else None),
        "access_key_id": settings.s3_access_key_id,
        "secret_access_key": settings.s3_secret_access_key,
        "session_token": settings.s3_session_token,
    }
    return {name: value for name, value in given.items() if value is not None}
