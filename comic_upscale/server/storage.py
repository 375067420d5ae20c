"""Which storage a server uses: a folder of the local disk, or a bucket."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from comic_upscale.errors import OutputError
from comic_upscale.server.files import FileStore, LocalFiles
from comic_upscale.settings.places import parse_place
from comic_upscale.storage import buckets

if TYPE_CHECKING:
    from comic_upscale.server.settings import ServerSettings


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
    return buckets.open_bucket(parse_place(address), config=_s3_config(settings))


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
