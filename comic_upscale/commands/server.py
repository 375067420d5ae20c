"""``comic-upscale server``: keys, users and care of a server, on its own machine."""

from __future__ import annotations

from typing import Annotated

import typer

from comic_upscale.commands.options import Given, takes
from comic_upscale.server.settings import ServerSettings
from comic_upscale.settings.options import pick

server = typer.Typer(no_args_is_help=True)
key = typer.Typer(no_args_is_help=True)
server.add_typer(key, name="key", help="Create, list and revoke API keys.")

WHERE = pick(ServerSettings, "data", "database")


@key.command("create")
@takes(where=WHERE)
def create_key(
    where: Given,
    name: Annotated[str, typer.Option("--name", metavar="NAME", help="Name of the key.")],
    user: Annotated[
        str | None,
        typer.Option("--user", metavar="NAME", help="Owner of the key. Default: a user with the key's name."),
    ] = None,
    admin: Annotated[bool, typer.Option("--admin", help="The key may administer the server.")] = False,
) -> None:
    """Create an API key and print it. It is shown only once."""
    from sqlalchemy.engine import Connection

    from comic_upscale.commands.server_environment import server_settings
    from comic_upscale.errors import SettingsError
    from comic_upscale.server import accounts, audit, keys
    from comic_upscale.server.services import open_database

    def create(connection: Connection) -> keys.NewKey:
        owner = user or name
        found = accounts.find_user(connection, owner)
        if found is not None and admin and found["role"] != "admin":
            raise SettingsError(
                f"the user {owner} is not an administrator: choose another --user, or no --admin"
            )
        if found is None:
            role: accounts.Role = "admin" if admin else "user"
            user_id = accounts.create_user(connection, owner, role)
            audit.record(connection, None, "user.create", owner, role=role)
        else:
            user_id = found["id"]
        scopes = accounts.scopes_of("admin" if admin else "user")
        new = keys.create_key(connection, user_id, name, scopes)
        audit.record(connection, None, "key.create", new.id, name=name, user=owner, scopes=sorted(scopes))
        return new

    database = open_database(server_settings(where.values()), migrating=True)
    try:
        created = database.write(create)
    finally:
        database.close()
    typer.echo(created.text)


@server.command("migrate")
@takes(where=WHERE)
def migrate(where: Given) -> None:
    """Bring the database to the schema of this version."""
    from comic_upscale.commands.server_environment import server_settings
    from comic_upscale.server.services import open_database

    open_database(server_settings(where.values()), migrating=True).close()
    typer.echo("The database has the schema of this version.")
