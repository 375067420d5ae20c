"""Administration: the log of this server."""

from __future__ import annotations

from fastapi import Request, Response

from comic_upscale.server.api import admin_server
from comic_upscale.server.api.access import Server
from comic_upscale.server.api.routing import page_router
from comic_upscale.server.pages.access import Admin
from comic_upscale.server.pages.render import render
from comic_upscale.server.recent_log import MOST_LINES

router = page_router(prefix="/admin")

SHOWN = 300


@router.get("/log")
async def show_server_log(request: Request, services: Server, admin: Admin) -> Response:
    """Show what the server logged last, the latest line first."""
    lines = (await admin_server.read_server_log(services, admin.account, after=0, limit=MOST_LINES))["lines"]
    return render(request, "server_log.html", lines=lines[::-1][:SHOWN], most=SHOWN, kept=len(lines))


@router.get("/log.txt")
async def download_server_log(services: Server, admin: Admin) -> Response:
    """Send the lines that are kept as text, the oldest first."""
    lines = (await admin_server.read_server_log(services, admin.account, after=0, limit=MOST_LINES))["lines"]
    text = "".join(f"{line['line']}\n" for line in lines)
    headers = {"Content-Disposition": 'attachment; filename="server-log.txt"'}
    return Response(text, media_type="text/plain; charset=utf-8", headers=headers)
