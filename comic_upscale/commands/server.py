"""``comic-upscale server``: keys, users and care of a server, on its own machine. Every change is audited."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from comic_upscale.commands.options import Given, takes
from comic_upscale.commands.server_care import WHERE, backup, check_storage, opened_database, restore
from comic_upscale.errors import InputError, SettingsError

if TYPE_CHECKING:
    from comic_upscale.server.accounts import Role
    from comic_upscale.server.database.engine import Database

T = TypeVar("T")

server = typer.Typer(no_args_is_help=True)
key = typer.Typer(no_args_is_help=True)
user = typer.Typer(no_args_is_help=True)
server.add_typer(key, name="key", help="Create, list and revoke API keys.")
server.add_typer(user, name="user", help="Create users, and give them new passwords.")


def _database(where: Given, *, may_create: bool = False) -> AbstractContextManager[Database]:
    from comic_upscale.commands.server_environment import server_settings

    return opened_database(server_settings(where.values()), may_create=may_create)


@key.command("create")
@takes(where=WHERE)
def create_key(
    where: Given,
    name: Annotated[str, typer.Option("--name", metavar="NAME", help="Name of the key.")],
    owner: Annotated[
        str | None,
        typer.Option(
            "--user",
            metavar="NAME",
            help="Owner of the key. Default: a user with the key's name, who is created.",
        ),
    ] = None,
    admin: Annotated[bool, typer.Option("--admin", help="The key may administer the server.")] = False,
) -> None:
    """Create an API key and print it. It is shown only once."""
    with _database(where, may_create=owner is None) as database:
        text, whose = database.write(lambda connection: _create_key(connection, name, owner, admin))
    typer.echo(whose, err=True)
    typer.echo(text)


def _create_key(connection: Any, name: str, given: str | None, admin: bool) -> tuple[str, str]:
    """Create a key, and return it with a sentence about its owner."""
    from comic_upscale.server import accounts, audit, keys

    role: Role = "admin" if admin else "user"
    owner = given or name
    found = accounts.find_user(connection, owner)
    if found is None and given is not None:
        raise InputError(
            f"there is no user {given}: create one with `comic-upscale server user create`, or leave --user out for a "
            f"user named {name}"
        )
    if found is not None and found["role"] == "anonymous":
        raise SettingsError(f"the user {owner} cannot have keys: choose another --user")
    if found is not None and admin and found["role"] != "admin":
        raise SettingsError(f"the user {owner} is not an administrator: choose another --user, or no --admin")
    if found is None:
        user_id = accounts.create_user(connection, owner, role)
        audit.record(connection, None, "user.create", owner, role=role)
    else:
        user_id = found["id"]
    scopes = accounts.scopes_of(role)
    new = keys.create_key(connection, user_id, name, scopes)
    audit.record(connection, None, "key.create", new.id, name=name, user=owner, scopes=sorted(scopes))
    made = f"Created the user {owner} without a password: the key" if found is None else "The key"
    return new.text, f"{made} and the jobs sent with it belong to {'this user' if found is None else owner}."


@key.command("list")
@takes(where=WHERE)
def list_keys(where: Given) -> None:
    """List all API keys, without their secrets."""
    from comic_upscale.server import keys
    from comic_upscale.server.jobs import iso

    with _database(where) as database:
        rows = database.read(lambda connection: keys.list_of(connection, None))
    for row in rows:
        used = iso(row["last_used_at"]) or "never"
        state = "revoked" if row["revoked_at"] is not None else f"last used {used}"
        typer.echo(f"cu_{row['id']}  {row['name']}  user {row['user']}  {row['scopes']}  {state}")


@key.command("revoke")
@takes(where=WHERE)
def revoke_key(
    where: Given, key_id: Annotated[str, typer.Argument(metavar="KEY", help="The key, or its part cu_ID.")]
) -> None:
    """Revoke an API key. It ends at once."""
    from comic_upscale.server import keys

    part = key_id.removeprefix("cu_").partition("_")[0]
    with _database(where) as database:
        if not database.write(lambda connection: keys.revoke_key(connection, None, part)):
            raise InputError(f"there is no valid key cu_{part}: `comic-upscale server key list` lists all")
    typer.echo(f"The key cu_{part} is revoked.")


@user.command("create")
@takes(where=WHERE)
def create_user(
    where: Given,
    name: Annotated[str, typer.Option("--name", metavar="NAME", help="Name of the user.")],
    admin: Annotated[bool, typer.Option("--admin", help="The user may administer the server.")] = False,
) -> None:
    """Create a user with a random password, and print it. The user must change it at the first login."""
    from comic_upscale.server import accounts, audit

    role: Role = "admin" if admin else "user"

    def create(connection: Any, hashed: str) -> None:
        accounts.create_user(connection, name, role, password_hash=hashed, must_change_password=True)
        audit.record(connection, None, "user.create", name, role=role)

    typer.echo(_with_password(where, create, may_create=True))


@user.command("reset-password")
@takes(where=WHERE)
def reset_password(
    where: Given, name: Annotated[str, typer.Option("--name", metavar="NAME", help="Name of the user.")]
) -> None:
    """Give a user a random password, and print it. The sessions and the second factor of the user end."""
    from comic_upscale.server import accounts, audit, sessions, totp

    def reset(connection: Any, hashed: str) -> None:
        found = accounts.find_user(connection, name)
        if found is None or found["role"] == "anonymous":
            raise InputError(f"there is no user {name} who can log in")
        accounts.set_password(connection, found["id"], hashed, must_change=True)
        totp.end(connection, found["id"])
        sessions.end_all(connection, found["id"])
        audit.record(connection, None, "password.reset", name)

    typer.echo(_with_password(where, reset))


def _with_password(where: Given, store: Callable[[Any, str], None], *, may_create: bool = False) -> str:
    """Make a password, store its hash, and return it."""
    from comic_upscale.server.ids import new_secret
    from comic_upscale.server.passwords import Passwords

    password = new_secret()[:20]
    passwords = Passwords()
    try:
        hashed = passwords.hash_now(password)
    finally:
        passwords.close()
    with _database(where, may_create=may_create) as database:
        database.write(lambda connection: store(connection, hashed))
    return password


@server.command("migrate")
@takes(where=WHERE)
def migrate(where: Given) -> None:
    """Bring the database to the schema of this version. A new one is created."""
    with _database(where, may_create=True):
        typer.echo("The database has the schema of this version.")


server.command("backup")(backup)
server.command("restore")(restore)
server.command("check-storage")(check_storage)
