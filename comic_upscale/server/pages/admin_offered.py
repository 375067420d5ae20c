"""Administration of what uploads may choose from, models and presets, and of the settings that change at run time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import sqlalchemy as sa
from fastapi import Form, Query, Request, Response
from sqlalchemy.engine import Connection

from comic_upscale.errors import ComicUpscaleError
from comic_upscale.server.api import admin_offered, admin_server
from comic_upscale.server.api.access import Server
from comic_upscale.server.api.errors import ApiError, as_api_error
from comic_upscale.server.api.routing import page_router
from comic_upscale.server.database.schema import jobs
from comic_upscale.server.job_log import MOST_LINES
from comic_upscale.server.overrides import CHANGEABLE
from comic_upscale.server.pages.access import Admin, Viewer
from comic_upscale.server.pages.choices import in_families, in_menu
from comic_upscale.server.pages.forms import check_conflicts, typed_fields
from comic_upscale.server.pages.render import go_to, render, wants_part
from comic_upscale.server.services import Services
from comic_upscale.server.settings import ServerSettings
from comic_upscale.server.words import as_sentence
from comic_upscale.settings.limits import bytes_text
from comic_upscale.settings.options import as_flag, definitions, value_from_text

router = page_router(prefix="/admin")

Text = Annotated[str, Form(max_length=2000)]
_FIELDS = ("factor", "model", "denoise", "format", "quality", "gray")
"""Options that the form for a preset has."""
_RECENT_JOBS = 10_000
"""Jobs in which the use of models is counted."""


@router.get("/models")
async def show_models(
    request: Request, services: Server, admin: Admin, preset: Annotated[str, Query(max_length=64)] = ""
) -> Response:
    """List the models, with how often recent jobs used them, and the presets; the form has the one that is named."""
    return await models_page(request, services, admin, preset=preset)


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
    try:
        await admin_offered.put_preset(services, admin.account, name.strip(), new)
    except (ApiError, ComicUpscaleError) as error:
        shown = as_api_error(error)
        form = {"name": name, "description": description, **given}
        return await models_page(
            request, services, admin, status=shown.status, error=shown.message, form=form
        )
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
    now = _texts(services.settings)
    typed: dict[str, str] = {}
    try:
        typed = typed_fields(form, now)
        if not typed:
            return go_to(request, "/admin/settings", "unchanged")
        await admin_server.store_settings(
            services, admin.account, _changes(typed),
            lambda now: check_conflicts(form, typed, _texts(now)),
        )  # fmt: skip
    except (ApiError, ComicUpscaleError) as error:
        shown = as_api_error(error)
        # Another server may have stored what this one refused.
        await services.live.refresh(now=True)
        return await _settings_page(
            request, services, admin, status=shown.status, error=_in_labels(shown.message), typed=typed
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


async def models_page(
    request: Request,
    services: Services,
    admin: Viewer,
    *,
    status: int = 200,
    error: str | None = None,
    form: Mapping[str, str] | None = None,
    preset: str = "",
) -> Response:
    """Return the page of models and presets.

    Args:
        request: that is answered.
        services: of the server.
        admin: who looks at it.
        status: of the response.
        error: why a preset was not saved.
        form: what was typed for it.
        preset: the one to change.
    """

    def read(connection: Connection) -> dict[str, int]:
        recent = (
            sa.select(jobs.c.model)
            .where(jobs.c.status == "completed", jobs.c.model.is_not(None))
            .order_by(jobs.c.updated_at.desc())
            .limit(_RECENT_JOBS)
            .subquery()
        )
        counted = sa.select(recent.c.model, sa.func.count()).group_by(recent.c.model)
        return {str(name): count for name, count in connection.execute(counted)}

    used = await services.database.read_async(read)
    listed = await admin_offered.list_models(services, admin.account)
    presets = await admin_offered.list_presets(services, admin.account)
    forms = {each["name"]: found for each in presets["presets"] if (found := _form_of(each)) is not None}
    choices = in_families(model for model in listed["models"] if not model["is_demoted"])
    shown = form or forms.get(preset) or {}
    return render(
        request, "models.html", status=status, error=error, changeable=forms, choices=choices,
        form=shown, chosen=in_menu(shown.get("model", ""), choices), **listed, **presets, used=used,
        most_bytes=admin_offered.MOST_MODEL_BYTES,
    )  # fmt: skip


def _form_of(preset: Mapping[str, Any]) -> dict[str, str] | None:
    """Return a preset of this server as its form shows it; None if it has options that the form has not."""
    options = {name: str(value) for name, value in preset["options"].items()}
    kind, _, factor = options.pop("size", "").partition(" ")
    if kind:
        options["factor"] = factor
    if not preset["is_own"] or kind not in ("", "scale") or not options.keys() <= set(_FIELDS):
        return None
    return {"name": preset["name"], "description": preset["description"], **options}


async def _settings_page(
    request: Request,
    services: Services,
    admin: Viewer,
    *,
    status: int = 200,
    error: str | None = None,
    typed: Mapping[str, str] | None = None,
) -> Response:
    listed = await admin_server.show_settings(services, admin.account)
    shown = [
        {
            **each, "now": _as_text(each["name"], each["value"]),
            "first": _as_text(each["name"], each["started_with"]) or "none",
            "text": (typed or {}).get(each["name"], _as_text(each["name"], each["value"])),
        }
        for each in listed["settings"]
    ]  # fmt: skip
    return render(request, "settings.html", status=status, error=error, settings=shown)


def _texts(settings: ServerSettings) -> dict[str, str]:
    """Return the settings that can be changed, as the form shows them."""
    return {name: _as_text(name, getattr(settings, name)) for name in CHANGEABLE}


def _in_labels(message: str) -> str:
    """Return a message that names settings as the form does."""
    for option in definitions(ServerSettings):
        if option.name in CHANGEABLE:
            label = option.name.replace("_", " ")
            for name in (as_flag(option.name), f"server.{option.name}", option.name):
                message = message.replace(name, label)
    return as_sentence(message)


_IN_BYTES = frozenset(option.name for option in definitions(ServerSettings) if option.opt.metavar == "BYTES")


def _as_text(name: str, value: Any) -> str:
    if name in _IN_BYTES and value:
        return bytes_text(value)
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return "" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _changes(typed: Mapping[str, str]) -> dict[str, Any]:
    """Return what was typed as JSON; None for an empty field.

    Raises:
        SettingsError: a text is no such value.
    """
    changes: dict[str, Any] = {}
    for option in definitions(ServerSettings):
        text = typed.get(option.name)
        if text is None:
            continue
        if not text:
            changes[option.name] = None
        elif option.item_kind is not None:
            changes[option.name] = [part.strip() for part in text.split(",") if part.strip()]
        else:
            changes[option.name] = value_from_text(option, text)
    return changes
