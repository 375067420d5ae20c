"""Administration: jobs of all users, the queue, users, keys, sessions and the audit log."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, Literal

import sqlalchemy as sa
from fastapi import Query, Response
from pydantic import BaseModel, Field
from sqlalchemy.engine import Connection
from starlette.background import BackgroundTask

from comic_upscale.server import accounts, audit, deletion, jobs, keys, queue, requeue, sessions, totp
from comic_upscale.server.accounts import Account
from comic_upscale.server.api.access import AdminAccount, Server
from comic_upscale.server.api.auth import Password, key_json
from comic_upscale.server.api.errors import ApiError, documented, not_found
from comic_upscale.server.api.jobs import read_list
from comic_upscale.server.api.routing import api_router
from comic_upscale.server.database.schema import audit as audit_table
from comic_upscale.server.database.schema import jobs as jobs_table
from comic_upscale.server.database.schema import users
from comic_upscale.server.jobs import Status, iso
from comic_upscale.server.overrides import effective
from comic_upscale.server.params import read_changes
from comic_upscale.server.passwords import check_password
from comic_upscale.server.services import Services

router = api_router(
    prefix="/api/v1/admin", tags=["administration"], responses=documented(400, 401, 403, 404, 429)
)

_LIMITS = ("jobs_at_once", "bytes_per_day", "pages_per_day", "pixels_per_day")
"""Limits of a user; null is none."""
Limit = Annotated[int, Query(ge=1, le=200)]
Cursor = Annotated[str | None, Query(max_length=200)]


class Requeue(BaseModel):
    """What is different when a job runs again."""

    options: dict[str, str] = Field(default={}, description="Fields of an upload, such as factor or model.")


class RequeueModel(Requeue):
    """Which jobs run again."""

    model: str
    limit: Annotated[int, Field(ge=1, le=1000)] = 100


class NewUser(BaseModel):
    """A user to create."""

    username: Annotated[str, Field(min_length=1, max_length=128)]
    password: Password | None = None
    role: Literal["admin", "user"] = "user"
    email: Annotated[str, Field(max_length=320)] | None = None


class UserChange(BaseModel):
    """What changes about a user; the rest stays."""

    role: Literal["admin", "user"] | None = None
    disabled: bool | None = None
    password: Password | None = None
    email: Annotated[str, Field(max_length=320)] | None = None
    jobs_at_once: Annotated[int, Field(ge=1, le=1000)] | None = None
    bytes_per_day: Annotated[int, Field(ge=0, le=1 << 50)] | None = None
    pages_per_day: Annotated[int, Field(ge=0, le=1 << 31)] | None = None
    pixels_per_day: Annotated[int, Field(ge=0, le=1 << 50)] | None = None
    reset_totp: Annotated[bool, Field(description="End the second factor, for a user who lost the app.")] = (
        False
    )


@router.get("/jobs", summary="List the jobs of all users")
async def list_jobs(
    services: Server,
    admin: AdminAccount,
    status: Status | None = None,
    owner: Annotated[
        str | None, Query(max_length=128, description="Only jobs of the user with this name.")
    ] = None,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> dict[str, Any]:
    """Return jobs, the latest first, and a cursor for the next page."""
    return await read_list(
        services, admin, status=status, cursor=cursor, limit=limit, everyone=True, owner=owner or None
    )


@router.post("/jobs/{job_id}/requeue", status_code=202, summary="Run a job again", responses=documented(409))
async def requeue_job(services: Server, admin: AdminAccount, job_id: str, again: Requeue) -> dict[str, Any]:
    """Queue a job that has ended as a new job over the same upload. The old record stays."""
    changes = read_changes(again.options, services.live.offered)

    def write(connection: Connection) -> dict[str, Any]:
        row = jobs.find_job(connection, admin, job_id)
        if row is None:
            raise not_found("job")
        new = requeue.requeue(connection, row, changes)
        if new is None:
            raise ApiError(409, "not_ended", f"The job has not ended: it is {row['status']}.")
        audit.record(connection, admin, "job.requeue", job_id, new=new["id"], options=dict(again.options))
        return jobs.job_json(connection, new)

    created = await services.database.write_async(write)
    services.wake()
    return created


@router.post("/requeue", status_code=202, summary="Run the jobs of a model again")
async def requeue_model(services: Server, admin: AdminAccount, again: RequeueModel) -> dict[str, Any]:
    """Queue the completed jobs of a model again, for instance after it was replaced."""
    changes = read_changes(again.options, services.live.offered)

    def write(connection: Connection) -> list[str]:
        created = []
        for row in requeue.of_model(connection, again.model, again.limit):
            new = requeue.requeue(connection, row, changes)
            created += [str(new["id"])] if new else []
        audit.record(
            connection, admin, "job.requeue", again.model, jobs=len(created), options=dict(again.options)
        )
        return created

    created = await services.database.write_async(write)
    services.wake()
    return {"job_ids": created}


@router.get("/queue", summary="Show the state of the queue")
async def show_queue(services: Server, admin: AdminAccount) -> dict[str, bool]:
    """Return whether the queue is paused, and whether uploads are refused."""
    return await services.database.read_async(
        lambda connection: {
            "paused": queue.is_paused(connection), "maintenance": queue.in_maintenance(connection),
        }
    )  # fmt: skip


@router.post("/queue/{action}", summary="Pause or resume the queue, or begin or end maintenance")
async def change_queue(
    services: Server, admin: AdminAccount, action: Literal["pause", "resume", "maintenance", "open"]
) -> dict[str, bool]:
    """A paused queue starts no job. In maintenance, uploads are refused. Running jobs continue in either state."""
    flags = {
        "pause": {"paused": True}, "resume": {"paused": False}, "maintenance": {"maintenance": True},
        "open": {"maintenance": False},
    }[action]  # fmt: skip

    def write(connection: Connection) -> None:
        queue.set_state(connection, **flags)
        audit.record(connection, admin, f"queue.{action}")

    await services.database.write_async(write)
    await services.live.refresh(now=True)
    services.wake()
    return await show_queue(services, admin)


@router.get("/users", summary="List users")
async def list_users(services: Server, admin: AdminAccount) -> dict[str, Any]:
    """Return all users."""
    rows = await services.database.read_async(
        lambda connection: connection.execute(sa.select(users).order_by(users.c.name)).mappings().all()
    )
    return {"users": [_user_json(row) for row in rows]}


@router.post("/users", status_code=201, summary="Create a user")
async def create_user(services: Server, admin: AdminAccount, new: NewUser) -> dict[str, Any]:
    """Create a user, who must change the password at the first login. Without a password, the user has keys alone."""
    hashed = None
    if new.password is not None:
        hashed = await services.passwords.hash(check_password(new.password, new.username))

    def write(connection: Connection) -> dict[str, Any]:
        accounts.create_user(
            connection, new.username, new.role, password_hash=hashed, must_change_password=hashed is not None,
            email=new.email,
        )  # fmt: skip
        audit.record(connection, admin, "user.create", new.username, role=new.role)
        return _user_json(accounts.find_user(connection, new.username))

    return await services.database.write_async(write)


@router.patch("/users/{username}", summary="Change a user")
async def change_user(
    services: Server, admin: AdminAccount, username: str, change: UserChange
) -> dict[str, Any]:
    """Change the role, block or unblock, or set a password. Each of these ends the sessions of the user."""
    return await store_user(services, admin, username, change)


async def store_user(
    services: Services,
    admin: Account,
    username: str,
    change: UserChange,
    check: Callable[[Mapping[str, Any]], None] = lambda user: None,
) -> dict[str, Any]:
    """Change a user, and return the user as JSON.

    Args:
        services: of the server.
        admin: who changes the user.
        username: of the user.
        change: what changes.
        check: may refuse the change by the row of the user, in the transaction of the change.

    Raises:
        ApiError: 404, there is no such user; 409, it is the last administrator.
        SettingsError: the password or the e-mail address is not allowed.
    """
    given = change.model_dump(exclude_unset=True)
    password, reset_totp = given.pop("password", None), given.pop("reset_totp", False)
    hashed = None if password is None else await services.passwords.hash(check_password(password, username))

    def write(connection: Connection) -> dict[str, Any]:
        user = accounts.find_user(connection, username)
        if user is None or user["role"] == "anonymous":
            raise not_found("user")
        check(user)
        values = {
            name: value
            for name, value in given.items()
            if name != "email" and (value is not None or name in _LIMITS)
        }
        if hashed is not None:
            accounts.set_password(connection, user["id"], hashed, must_change=True)
        if reset_totp:
            totp.end(connection, user["id"])
        if "email" in given:
            accounts.set_email(connection, user["id"], given["email"])
        if values:
            connection.execute(sa.update(users).where(users.c.id == user["id"]).values(values))
        loses_admin = user["role"] == "admin" and (values.get("role") == "user" or values.get("disabled"))
        if loses_admin and user["password_hash"] is not None and not accounts.has_admin(connection):
            raise ApiError(409, "last_admin", "This is the last administrator who can log in.")
        if hashed is not None or {"role", "disabled"} & values.keys():
            sessions.end_all(connection, user["id"])
        audit.record(
            connection,
            admin,
            "user.change",
            username,
            changed=sorted(
                [
                    *values,
                    *["email"] * ("email" in given),
                    *["password"] * bool(hashed),
                    *["totp"] * reset_totp,
                ]
            ),
        )
        return _user_json(accounts.find_user(connection, username))

    return await services.database.write_async(write)


@router.delete(
    "/users/{username}", status_code=204, summary="Delete a user with all jobs", responses=documented(409)
)
async def delete_user(services: Server, admin: AdminAccount, username: str) -> Response:
    """Delete a user with the jobs, originals, results, watched folders, keys and sessions of the user.

    Files in folders of the server stay, and so does the audit log. A block keeps everything, and can be taken back.
    """
    stored = await remove_user(services, admin, username)
    return Response(status_code=204, background=BackgroundTask(delete_files, services, stored))


async def remove_user(services: Services, admin: Account, username: str) -> list[str]:
    """Delete a user from the database, and return the keys of the files, for `delete_files` after the answer.

    Raises:
        ApiError: there is no such user, or the user cannot be deleted now.
    """
    running = ApiError(
        409, "running", f"A job of {username} is running: cancel it first, then delete the user."
    )

    def begin(connection: Connection) -> tuple[str, int]:
        user = accounts.find_user(connection, username)
        if user is None or user["role"] == "anonymous":
            raise not_found("user")
        if user["id"] == services.environment_id:
            raise ApiError(
                409, "environment_user", "This user belongs to the key in the environment of the server."
            )
        if user["id"] == admin.user_id:
            raise ApiError(409, "yourself", "You cannot delete yourself: another administrator can.")
        # The next user of that name would have the right, too; the value of the start may come back into force.
        started = services.live.started
        for which, found in (
            ("", effective(connection, started)),
            (" in the options with which the server starts", started),
        ):
            if username in found.library_users:
                raise ApiError(
                    409, "library_user",
                    f"{username} may use the library: take the name out of the setting library_users first{which}.",
                )  # fmt: skip
        count = connection.scalar(
            sa.select(sa.func.count()).select_from(jobs_table).where(jobs_table.c.owner_id == user["id"])
        )
        if not deletion.begin(connection, user["id"]):
            raise running
        if (
            user["role"] == "admin"
            and user["password_hash"] is not None
            and not accounts.has_admin(connection)
        ):
            raise ApiError(409, "last_admin", "This is the last administrator who can log in.")
        if not user["disabled"]:
            audit.record(connection, admin, "user.change", username, changed=["disabled"])
        return user["id"], count or 0

    user_id, count = await services.database.write_async(begin)

    def finish(connection: Connection) -> list[str]:
        if accounts.find_user(connection, username) is None:
            # Another administrator was faster.
            raise not_found("user")
        last = deletion.finish(connection, user_id)
        if last is None:
            raise running
        audit.record(connection, admin, "user.delete", username, jobs=count)
        return last

    stored: list[str] = []
    while (
        some := await services.database.write_async(lambda c: deletion.delete_some(c, user_id))
    ) is not None:
        stored += some
    return stored + await services.database.write_async(finish)


def delete_files(services: Services, stored: Iterable[str]) -> None:
    """Delete stored files. Blocks. What a stop of the server leaves behind, the janitor deletes."""
    for key in stored:
        services.files.delete(key)


@router.get("/keys", summary="List the API keys of all users")
async def list_keys(services: Server, admin: AdminAccount) -> dict[str, Any]:
    """Return all keys, without their secrets."""
    rows = await services.database.read_async(lambda connection: keys.list_of(connection, None))
    return {"keys": [key_json(row) | {"user": row["user"]} for row in rows]}


@router.delete("/keys/{key_id}", status_code=204, summary="Revoke an API key of any user")
async def revoke_key(services: Server, admin: AdminAccount, key_id: str) -> None:
    """Revoke a key."""
    if not await services.database.write_async(lambda connection: keys.revoke_key(connection, admin, key_id)):
        raise not_found("key")


@router.get("/audit", summary="Read the audit log")
async def read_audit(
    services: Server,
    admin: AdminAccount,
    before: Annotated[int | None, Query(ge=1, le=1 << 62)] = None,
    limit: Limit = 100,
) -> dict[str, Any]:
    """Return entries, the latest first; ``before`` is the id of the last one of the page before."""
    older = () if before is None else (audit_table.c.id < before,)
    rows = await services.database.read_async(
        lambda connection: connection.execute(
            sa.select(audit_table).where(*older).order_by(audit_table.c.id.desc()).limit(limit)
        ).mappings().all()
    )  # fmt: skip
    return {"entries": [{**row, "at": iso(row["at"])} for row in rows]}


def _user_json(row: Any) -> dict[str, Any]:
    shown = ("name", "email", "role", "disabled", "must_change_password", *_LIMITS)
    return {
        **{name: row[name] for name in shown},
        "has_totp": totp.is_active(row),
        "can_log_in": row["password_hash"] is not None and not row["disabled"],
        "created_at": iso(row["created_at"]),
    }
