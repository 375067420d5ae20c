"""The styles and scripts of the pages: read once, sent packed, and kept by browsers until they change."""

from __future__ import annotations

import gzip
import hashlib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from fastapi import Request, Response

from comic_upscale.server.api.errors import not_found
from comic_upscale.server.api.routing import page_router

router = page_router(prefix="/static")

_TYPES = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml", "md": "text/markdown"}


@dataclass(frozen=True, slots=True)
class Asset:
    """A file that every visitor gets alike."""

    content: bytes
    packed: bytes
    """The content, packed by gzip."""
    media_type: str
    digest: str
    """Changes with the content; part of the address."""


@cache
def assets() -> dict[str, Asset]:
    """Return all files of the folder ``static`` by name."""
    found = {}
    for path in files("comic_upscale.server.pages").joinpath("static").iterdir():
        content = path.read_bytes()
        media_type = _TYPES[path.name.rsplit(".", 1)[-1]]
        digest = hashlib.sha256(content).hexdigest()[:16]
        found[path.name] = Asset(content, gzip.compress(content, mtime=0), media_type, digest)
    return found


@router.get("/{name}")
async def send_asset(request: Request, name: str) -> Response:
    """Send a style or a script."""
    asset = assets().get(name)
    if asset is None:
        raise not_found("file")
    headers = {"ETag": f'"{asset.digest}"', "Vary": "Accept-Encoding"}
    # The address of a file names its content, so a browser need not ask again.
    is_current = request.query_params.get("v") == asset.digest
    headers["Cache-Control"] = "public, max-age=31536000, immutable" if is_current else "no-cache"
    if request.headers.get("if-none-match") == headers["ETag"]:
        return Response(status_code=304, headers=headers)
    content = asset.content
    if "gzip" in request.headers.get("accept-encoding", ""):
        content, headers["Content-Encoding"] = asset.packed, "gzip"
    return Response(content, headers=headers, media_type=asset.media_type)
