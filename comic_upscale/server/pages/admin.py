"""Administration: what the server does now, its jobs, models, the system, and the record of changes."""

from __future__ import annotations

import asyncio
import platform
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import Form, Query, Request, Response
from sqlalchemy.engine import Connection

from comic_upscale.console.text import money
from comic_upscale.errors import OutputError, SettingsError, StorageError
from comic_upscale.server import audit, queue, search
from comic_upscale.server.api import admin as admin_api
from comic_upscale.server.api.access import Server
from comic_upscale.server.api.routing import page_router
from comic_upscale.server.database.backup import copy_database
from comic_upscale.server.database.migrate import schema_revision
from comic_upscale.server.pages.access import Admin
from comic_upscale.server.pages.jobs import Cursor, Filter, Text, job_list
from comic_upscale.server.pages.render import go_to, render, wants_part
from comic_upscale.server.services import Services
from comic_upscale.server.settings import ServerSettings
from comic_upscale.server.storage_check import check_storage
from comic_upscale.settings.options import definitions
from comic_upscale.version import __version__

router = page_router(prefix="/admin")

ON_A_PAGE = 100


@router.get("")
async def show_dashboard(request: Request, services: Server, admin: Admin) -> Response:
    """Show what the server does now, and did today."""

    def read(connection: Connection) -> dict[str, Any]:
        failed = search.find_jobs(connection, owner_id=None, status="failed", limit=5)
        return {
            "day": search.figures_of_day(connection),
            "failed": failed.rows,
            # The figures of the monitor may be older than the change that this page confirms.
            "paused": queue.is_paused(connection),
            "maintenance": queue.in_maintenance(connection),
        }

    figures = await services.database.read_async(read)
    figures["now"] = await services.monitor.figures()
    price = services.settings.price
    return render(
        request, "dashboard_part.html" if wants_part(request) else "dashboard.html", **figures,
        cost=money(figures["day"]["worked"] * price / 3600) if price else None, price=money(price),
        problems=services.problems(), free=await services.monitor.free_percent(),
        least_free=services.settings.min_free_disk,
    )  # fmt: skip


@router.post("/queue")
async def change_queue(
    request: Request,
    services: Server,
    admin: Admin,
    action: Annotated[Literal["pause", "resume", "maintenance", "open"], Form()],
) -> Response:
    """Pause or resume the queue, or begin or end maintenance."""
    await admin_api.change_queue(services, admin.account, action)
    return go_to(request, "/admin", "queue")


@router.get("/jobs")
async def show_jobs(
    request: Request,
    services: Server,
    admin: Admin,
    status: Filter = None,
    q: Text = "",
    owner: Text = "",
    cursor: Cursor = None,
) -> Response:
    """List the jobs of all users, or of one."""
    return await job_list(
        request, services, admin, status=status, text=q, cursor=cursor, everyone=True, owner=owner
    )


@router.post("/models/again")
async def run_model_again(
    request: Request,
    services: Server,
    admin: Admin,
    model: Annotated[str, Form(min_length=1, max_length=128)],
    other: Annotated[str, Form(max_length=128)] = "",
) -> Response:
    """Queue the completed jobs of a model again, with another model if one is given."""
    again = admin_api.RequeueModel(model=model, options={"model": other} if other else {}, limit=1000)
    await admin_api.requeue_model(services, admin.account, again)
    return go_to(request, "/admin/jobs?status=queued", "queued")


@router.get("/audit")
async def show_audit(
    request: Request,
    services: Server,
    admin: Admin,
    before: Annotated[int | None, Query(ge=1, le=1 << 62)] = None,
) -> Response:
    """Show who changed what."""
    listed = await admin_api.read_audit(services, admin.account, before=before, limit=ON_A_PAGE)
    entries = listed["entries"]
    following = entries[-1]["id"] if len(entries) == ON_A_PAGE else None
    return render(request, "audit.html", entries=entries, following=following, before=before)


@router.get("/system")
async def show_system(request: Request, services: Server, admin: Admin) -> Response:
    """Show versions, settings and backups."""
    return await _system_page(request, services)


@router.post("/backup")
async def back_up(request: Request, services: Server, admin: Admin) -> Response:
    """Copy an SQLite database into a new file of the data folder."""
    if not services.database.is_sqlite:
        raise SettingsError("this server uses PostgreSQL: run comic-upscale server backup")
    folder = _backup_folder(services.settings)
    name = f"server-{datetime.now(UTC):%Y%m%d-%H%M%S-%f}.sqlite3"

    def make() -> None:
        folder.mkdir(mode=0o700, exist_ok=True)
        copy_database(services.database, folder / name, services.settings.database_url, {})

    await asyncio.to_thread(make)
    await services.database.write_async(
        lambda connection: audit.record(connection, admin.account, "server.backup", name)
    )
    return go_to(request, "/admin/system", "backed-up")


@router.post("/storage")
async def try_storage(request: Request, services: Server, admin: Admin) -> Response:
    """Write, read, list and delete two files of the storage, and show what worked."""
    steps: list[str] = []
    problem = None
    try:
        await asyncio.to_thread(check_storage, services.files, steps.append)
    except (StorageError, OutputError) as error:
        problem = str(error)
    return await _system_page(request, services, storage=Tried(steps, problem))


@dataclass(frozen=True, slots=True)
class Tried:
    """What a check of the storage found."""

    steps: list[str]
    """Those that worked."""
    problem: str | None
    """Why the next one did not."""


async def _system_page(request: Request, services: Services, *, storage: Tried | None = None) -> Response:
    folder = _backup_folder(services.settings)
    backups = await asyncio.to_thread(_list_backups, folder)
    return render(
        request, "system.html", storage=storage, backups=backups, folder=str(folder),
        is_sqlite=services.database.is_sqlite,
        facts={
            "comic-upscale": __version__,
            "Schema of the database": await services.database.read_async(schema_revision),
            "Database": "SQLite" if services.database.is_sqlite else "PostgreSQL",
            "Python": platform.python_version(),
            "System": f"{platform.system()} {platform.release()}",
            "Host": platform.node(),
        },
        settings=_shown_settings(services.settings),
    )  # fmt: skip


def _shown_settings(settings: ServerSettings) -> list[tuple[str, str, str]]:
    """Return name, value and meaning of each setting. A secret is only said to be there."""
    shown = []
    for option in definitions(ServerSettings):
        value = getattr(settings, option.name)
        if option.opt.secret:
            text = "not set" if value is None else "set, not shown"
        else:
            text = "-" if value in (None, (), "") else str(value)
        shown.append((option.name.replace("_", " "), text, option.opt.help))
    return shown


def _backup_folder(settings: ServerSettings) -> Path:
    return settings.data / "backups"


def _list_backups(folder: Path) -> list[tuple[str, int]]:
    if not folder.is_dir():
        return []
    found = [(path.name, path.stat().st_size) for path in folder.iterdir() if path.suffix == ".sqlite3"]
    return sorted(found, reverse=True)
