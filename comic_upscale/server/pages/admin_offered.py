"""Administration of what uploads may choose from, presets and models, and of the settings that change at run time."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import Form, Query, Request, Response

from comic_upscale.errors import SettingsError
from comic_upscale.server.api import admin_offered, admin_server
from comic_upscale.server.api.access import Server
from comic_upscale.server.api.errors import ApiError, as_api_error
from comic_upscale.server.api.routing import page_router
from comic_upscale.server.job_log import MOST_LINES
from comic_upscale.server.overrides import CHANGEABLE
from comic_upscale.server.pages.access import Admin, Viewer
from comic_upscale.server.pages.render import go_to, render, wants_part
from comic_upscale.server.services import Services
from comic_upscale.server.settings import ServerSettings
from comic_upscale.settings.options import definitions, value_from_text

router = page_router(prefix="/admin")

Text = Annotated[str, Form(max_length=2000)]
_FIELDS = ("factor", "model", "denoise", "format", "quality", "gray")
"""Options that the form for a preset has."""


@router.post("/models/{name}/delete")
async def delete_model(request: Request, services: Server, admin: Admin, name: str) -> Response:
    """Delete a model that was registered here, with its weights."""
    await admin_offered.delete_model(services, admin.account, name)
    return go_to(request, "/admin/models", "changed")


@router.post("/models/{name}/note")
async def set_note(
    request: Request,
    services: Server,
    admin: Admin,
    name: str,
    note: Annotated[str, Form(max_length=500)] = "",
) -> Response:
    """Set the text that everybody sees where a model is chosen."""
    await admin_offered.put_note(
        services, admin.account, name, admin_offered.NewNote.model_construct(note=note)
    )
    return go_to(request, "/admin/models", "changed")


@router.post("/models/{name}/{action}")
async def change_model(
    request: Request,
    services: Server,
    admin: Admin,
    name: str,
    action: Literal["default", "demote", "promote"],
) -> Response:
    """Make a model the default, withdraw it, or offer it again."""
    await admin_offered.change_model(services, admin.account, name, action)
    return go_to(request, "/admin/models", "changed")


@router.post("/presets")
async def set_preset(
    request: Request,
    services: Server,
    admin: Admin,
    name: Text,
    description: Text = "",
    factor: Text = "",
    model: Text = "",
    denoise: Text = "",
    format: Text = "",
    quality: Text = "",
    gray: Text = "",
) -> Response:
    """Create a preset, or replace one of this server."""
    given = dict(zip(_FIELDS, (factor, model, denoise, format, quality, gray), strict=True))
    options = {field: text.strip() for field, text in given.items() if text.strip()}
    new = admin_offered.NewPreset.model_construct(description=description[:500], options=options)
    await admin_offered.put_preset(services, admin.account, name.strip(), new)
    return go_to(request, "/admin/models", "changed")


@router.post("/presets/{name}/delete")
async def delete_preset(request: Request, services: Server, admin: Admin, name: str) -> Response:
    """Delete a preset of this server."""
    await admin_offered.delete_preset(services, admin.account, name)
    return go_to(request, "/admin/models", "changed")


@router.get("/settings")
async def show_settings(request: Request, services: Server, admin: Admin) -> Response:
    """Show the settings that change at run time."""
    return await _settings_page(request, services, admin)


@router.post("/settings")
async def change_settings(request: Request, services: Server, admin: Admin) -> Response:
    """Change settings: the fields that differ from the values in force."""
    form = await request.form(max_fields=100)
    given = {name: str(form[name]).strip() for name in CHANGEABLE if name in form}
    try:
        await admin_server.change_settings(services, admin.account, _changes(services.settings, given))
    except (ApiError, SettingsError) as error:
        shown = error if isinstance(error, ApiError) else as_api_error(error)
        return await _settings_page(
            request, services, admin, status=shown.status, error=shown.message, given=given
        )
    return go_to(request, "/admin/settings", "changed")


@router.get("/jobs/{job_id}/log")
async def show_log(
    request: Request,
    services: Server,
    admin: Admin,
    job_id: str,
    after: Annotated[int, Query(ge=0, le=1 << 62)] = 0,
) -> Response:
    """Show what the workers did with a job."""
    listed = await admin_server.read_logs(services, admin.account, job_id, after=after, limit=500)
    template = "log_part.html" if wants_part(request) else "log.html"
    return render(request, template, lines=listed["lines"], job_id=job_id, after=after)


@router.get("/jobs/{job_id}/log.txt")
async def download_log(services: Server, admin: Admin, job_id: str) -> Response:
    """Send the log of a job as text."""
    listed = await admin_server.read_logs(services, admin.account, job_id, after=0, limit=MOST_LINES)
    text = "".join(f"{line['at']} {line['line']}\n" for line in listed["lines"])
    headers = {"Content-Disposition": f'attachment; filename="{job_id}.txt"'}
    return Response(text, media_type="text/plain; charset=utf-8", headers=headers)


async def _settings_page(
    request: Request,
    services: Services,
    admin: Viewer,
    *,
    status: int = 200,
    error: str | None = None,
    given: dict[str, str] | None = None,
) -> Response:
    listed = await admin_server.show_settings(services, admin.account)
    shown = [
        {
            **each, "text": (given or {}).get(each["name"], _as_text(each["value"])),
            "first": _as_text(each["started_with"]) or "none",
        }
        for each in listed["settings"]
    ]  # fmt: skip
    return render(request, "settings.html", status=status, error=error, settings=shown)


def _as_text(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return "" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _changes(now: ServerSettings, given: dict[str, str]) -> dict[str, Any]:
    """Return the values that differ from those in force, as JSON; None for an empty field.

    Raises:
        SettingsError: a text is no such value.
    """
    changes: dict[str, Any] = {}
    for option in definitions(ServerSettings):
        text = given.get(option.name)
        if text is None or text == _as_text(getattr(now, option.name)):
            continue
        if not text:
            changes[option.name] = None
        elif option.item_kind is not None:
            changes[option.name] = [part.strip() for part in text.split(",") if part.strip()]
        else:
            changes[option.name] = value_from_text(option, text)
    return changes
