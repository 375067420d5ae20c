"""Administration of users, with their limits, sessions and keys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import Form, Request, Response
from sqlalchemy.engine import Connection
from starlette.background import BackgroundTask

from comic_upscale.errors import ComicUpscaleError
from comic_upscale.server import accounts, audit, keys, sessions
from comic_upscale.server.api import admin as admin_api
from comic_upscale.server.api.access import Server
from comic_upscale.server.api.errors import ApiError, as_api_error, not_found
from comic_upscale.server.api.routing import page_router
from comic_upscale.server.pages.access import Admin, Viewer
from comic_upscale.server.pages.forms import check_conflicts, typed_fields
from comic_upscale.server.pages.render import go_to, render
from comic_upscale.server.quotas import quotas_of
from comic_upscale.server.services import Services

router = page_router(prefix="/admin")

Text = Annotated[str, Form(max_length=1024)]
_MB = 1_000_000


@router.get("/users")
async def show_users(request: Request, services: Server, admin: Admin) -> Response:
    """List the users."""
    return await _users_page(request, services, admin)


@router.post("/users")
async def create_user(
    request: Request,
    services: Server,
    admin: Admin,
    username: Text,
    role: Text = "user",
    password: Text = "",
    email: Text = "",
    pages_per_day: Text = "",
) -> Response:
    """Create a user, with a daily limit of pages if one is given."""
    try:
        pages = _limit(pages_per_day, "pages a day")
        new = admin_api.NewUser.model_construct(
            username=username, password=password or None, role=_role(role), email=email.strip() or None
        )
        created = await admin_api.create_user(services, admin.account, new)
        if pages is not None:
            change = admin_api.UserChange(pages_per_day=pages)
            await admin_api.change_user(services, admin.account, created["name"], change)
    except (ApiError, ComicUpscaleError) as error:
        shown = as_api_error(error)
        form = {"username": username, "role": role, "email": email, "pages_per_day": pages_per_day}
        return await _users_page(
            request, services, admin, status=shown.status, error=shown.message, form=form
        )
    return go_to(request, f"/admin/users/{created['name']}", "created")


@router.get("/users/{username}")
async def show_user(request: Request, services: Server, admin: Admin, username: str) -> Response:
    """Show a user."""
    return await _user_page(request, services, username)


@router.post("/users/{username}")
async def change_user(
    request: Request,
    services: Server,
    admin: Admin,
    username: str,
) -> Response:
    """Change the role, the e-mail address and the limits of a user: the fields that somebody changed."""
    form = await request.form(max_fields=100)
    now = _fields(await _find_user(services, username))
    typed: dict[str, str] = {}
    try:
        typed = typed_fields(form, now)
        # Another role ends the sessions of the user, and the same one must not.
        if all(text == now[name] for name, text in typed.items()):
            return go_to(request, f"/admin/users/{username}", "unchanged")
        await admin_api.store_user(
            services, admin.account, username, _change(typed),
            lambda user: check_conflicts(form, typed, _fields(user)),
        )  # fmt: skip
    except (ApiError, ComicUpscaleError) as error:
        shown = as_api_error(error)
        return await _user_page(
            request, services, username, status=shown.status, error=shown.message, typed=typed
        )
    return go_to(request, f"/admin/users/{username}", "changed")


@router.post("/users/{username}/block")
async def block_user(
    request: Request, services: Server, admin: Admin, username: str, disabled: Annotated[bool, Form()]
) -> Response:
    """Block a user, or let a blocked one in again."""
    change = admin_api.UserChange(disabled=disabled)
    await admin_api.change_user(services, admin.account, username, change)
    return go_to(request, f"/admin/users/{username}", "blocked" if disabled else "changed")


@router.post("/users/{username}/delete")
async def delete_user(request: Request, services: Server, admin: Admin, username: str) -> Response:
    """Delete a user with everything that belongs to the user."""
    try:
        stored = await admin_api.remove_user(services, admin.account, username)
    except (ApiError, ComicUpscaleError) as error:
        shown = as_api_error(error)
        if shown.status == 404:
            raise
        message = shown.message.replace("library_users", "library users")
        return await _user_page(request, services, username, status=shown.status, error=message)
    answer = go_to(request, "/admin/users", "user-deleted")
    answer.background = BackgroundTask(admin_api.delete_files, services, stored)
    return answer


@router.post("/users/{username}/password")
async def reset_password(
    request: Request, services: Server, admin: Admin, username: str, password: Text
) -> Response:
    """Give a user a password, which must be changed at the next sign-in."""
    try:
        change = admin_api.UserChange.model_construct(_fields_set={"password"}, password=password)
        await admin_api.change_user(services, admin.account, username, change)
    except (ApiError, ComicUpscaleError) as error:
        shown = as_api_error(error)
        return await _user_page(request, services, username, status=shown.status, error=shown.message)
    return go_to(request, f"/admin/users/{username}", "changed")


@router.post("/users/{username}/sessions/end")
async def end_sessions(request: Request, services: Server, admin: Admin, username: str) -> Response:
    """End all sessions of a user but the one of this request."""
    user = await _find_user(services, username)

    def end(connection: Connection) -> None:
        ended = sessions.end_all(connection, user["id"], but=admin.account.session_id)
        audit.record(connection, admin.account, "session.end", username, sessions=ended)

    await services.database.write_async(end)
    return go_to(request, f"/admin/users/{username}", "ended")


@router.get("/keys")
async def show_keys(request: Request, services: Server, admin: Admin) -> Response:
    """List the keys of all users."""
    rows = await services.database.read_async(lambda connection: keys.list_of(connection, None))
    return render(request, "keys.html", keys=rows)


@router.post("/keys/{key_id}/revoke")
async def revoke_key(request: Request, services: Server, admin: Admin, key_id: str) -> Response:
    """Revoke a key."""
    await admin_api.revoke_key(services, admin.account, key_id)
    return go_to(request, "/admin/keys", "revoked")


async def _users_page(
    request: Request,
    services: Services,
    admin: Viewer,
    *,
    status: int = 200,
    error: str | None = None,
    form: Mapping[str, str] | None = None,
) -> Response:
    listed = await admin_api.list_users(services, admin.account)
    people = [user for user in listed["users"] if user["role"] != "anonymous"]
    return render(request, "users.html", status=status, error=error, form=form or {}, users=people)


async def _user_page(
    request: Request,
    services: Services,
    username: str,
    *,
    status: int = 200,
    error: str | None = None,
    typed: Mapping[str, str] | None = None,
) -> Response:
    user = await _find_user(services, username)

    def read(connection: Connection) -> dict[str, Any]:
        return {
            "sessions": sessions.list_of(connection, user["id"]),
            "keys": keys.list_of(connection, user["id"]),
            "quotas": quotas_of(connection, user["id"]),
        }

    own = await services.database.read_async(read)
    now = _fields(user)
    return render(
        request,
        "user.html",
        status=status,
        error=error,
        user=user,
        is_environment=user["id"] == services.environment_id,
        now=now,
        form={**now, **(typed or {})},
        **own,
    )


async def _find_user(services: Services, username: str) -> Mapping[str, Any]:
    user = await services.database.read_async(lambda connection: accounts.find_user(connection, username))
    if user is None or user["role"] == "anonymous":
        raise not_found("user")
    return user


def _fields(user: Mapping[str, Any]) -> dict[str, str]:
    """Return what the form for a user shows. It shows whole megabytes, while the REST interface sets bytes."""
    size = user["bytes_per_day"]
    # A limit below one megabyte must not look like a limit of 0.
    megabytes = None if size is None else max(int(size) // _MB, min(size, 1))
    limits = {
        "jobs_at_once": user["jobs_at_once"],
        "pages_per_day": user["pages_per_day"],
        "megabytes_per_day": megabytes,
    }
    return {
        "role": user["role"],
        "email": user["email"] or "",
        **{name: "" if value is None else str(value) for name, value in limits.items()},
    }


def _change(typed: Mapping[str, str]) -> admin_api.UserChange:
    """Return the change that a form asks for.

    Raises:
        ApiError: 400, a value is not allowed.
    """
    changed: dict[str, Any] = {}
    if "role" in typed:
        changed["role"] = _role(typed["role"])
    if "email" in typed:
        changed["email"] = typed["email"] or None
    if "jobs_at_once" in typed:
        changed["jobs_at_once"] = _limit(typed["jobs_at_once"], "jobs at once", least=1, most=1000)
    if "pages_per_day" in typed:
        changed["pages_per_day"] = _limit(typed["pages_per_day"], "pages a day")
    if "megabytes_per_day" in typed:
        megabytes = _limit(typed["megabytes_per_day"], "megabytes a day", most=(1 << 50) // _MB)
        changed["bytes_per_day"] = None if megabytes is None else megabytes * _MB
    return admin_api.UserChange(**changed)


def _role(text: str) -> Any:
    if text not in ("admin", "user"):
        raise ApiError(400, "invalid", "The role is user or admin.")
    return text


def _limit(text: str, what: str, *, least: int = 0, most: int = 1 << 31) -> int | None:
    """Return the number of a field that may be empty for no limit."""
    plain = text.strip().replace(",", "")
    if not plain:
        return None
    if not (plain.isascii() and plain.isdigit() and len(plain) <= 20) or not least <= int(plain) <= most:
        raise ApiError(
            400,
            "invalid",
            f"The limit of {what} is a whole number from {least} to {most:,}, or empty for none.",
        )
    return int(plain)
