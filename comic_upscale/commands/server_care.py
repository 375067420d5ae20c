"""``comic-upscale server backup``, ``restore`` and ``check-storage``."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from comic_upscale.commands.options import Given, takes
from comic_upscale.server.settings import ServerSettings
from comic_upscale.settings.options import pick

if TYPE_CHECKING:
    from comic_upscale.server.database.engine import Database

WHERE = pick(ServerSettings, "data", "database")
_STORAGE = pick(ServerSettings, "data", "storage")


@contextmanager
def opened_database(settings: ServerSettings, *, may_create: bool = False) -> Iterator[Database]:
    """Open the database of a server, say which one it is, and close it in the end.

    Args:
        settings: of the server.
        may_create: whether a database that is missing is created, for what a server can begin with.

    Raises:
        SettingsError: it is missing, and must not be created.
    """
    from comic_upscale.server.services import has_database, open_database

    is_new = may_create and not has_database(settings)
    database = open_database(settings, migrating=True, may_create=may_create)
    try:
        # Not among the results: scripts read those.
        typer.echo(f"Database: {settings.database_address}{' (new)' if is_new else ''}", err=True)
        yield database
    finally:
        database.close()


@takes(where=WHERE)
def backup(
    where: Given,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="The backup; it must not exist.")
    ],
) -> None:
    """Copy the database into one file, consistently, also while the server runs."""
    from comic_upscale.commands.server_environment import server_settings
    from comic_upscale.server.database.backup import copy_database

    settings = server_settings(where.values())
    with opened_database(settings) as database:
        copy_database(database, output, settings.database_url, os.environ)
    typer.echo(f"The database is saved in {output}. Uploads and results are in {settings.storage_address}.")


@takes(where=WHERE)
def restore(
    where: Given,
    source: Annotated[Path, typer.Option("--input", "-i", metavar="FILE", help="The backup.")],
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace the jobs, users and keys that there are now.")
    ] = False,
) -> None:
    """Put a backup in the place of the database, while no server and no worker runs."""
    from comic_upscale.commands.server_environment import server_settings
    from comic_upscale.errors import SettingsError
    from comic_upscale.server import audit
    from comic_upscale.server.database.backup import restore_postgresql, restore_sqlite
    from comic_upscale.server.database.usage import check_unused, is_empty
    from comic_upscale.server.run import only_server
    from comic_upscale.server.services import make_folder

    settings = server_settings(where.values())
    make_folder(settings.data)
    target = settings.database_file
    with only_server(settings):
        former = None
        is_new = not target.exists() if settings.database is None else is_empty(settings.database_url)
        if not is_new and not replace:
            raise SettingsError(
                "there is a database already: add --replace, or choose another --data or --database"
            )
        if settings.database is None:
            former = restore_sqlite(source, target)
        else:
            check_unused(settings.database_url)
            restore_postgresql(source, settings.database_url, os.environ)
        with opened_database(settings) as database:
            database.write(lambda connection: audit.record(connection, None, "database.restore", source.name))
    typer.echo(
        f"Restored the database from {source}." + (f" The previous one is {former}." if former else "")
    )


@takes(where=_STORAGE)
def check_storage(where: Given) -> None:
    """Write, read, list and delete files in the storage, and name the right that is missing."""
    from comic_upscale.commands.server_environment import server_settings
    from comic_upscale.server import storage_check
    from comic_upscale.server.services import make_folder
    from comic_upscale.server.storage import open_files

    settings = server_settings(where.values())
    make_folder(settings.data)
    typer.echo(f"Storage: {settings.storage_address}")
    storage_check.check_storage(open_files(settings), lambda step: typer.echo(f"{step}: ok"))
