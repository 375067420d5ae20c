"""A real PostgreSQL of the tester's own: a cluster in a temporary folder, on a Unix socket, never on a port."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.programs import NO_ACCOUNT, has_account


def programs() -> Path | None:
    """The folder of PostgreSQL's programs; None where it is not installed."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    found = [folder for folder in folders if (folder / "initdb").is_file()]
    if found:
        return found[0]
    program = shutil.which("initdb")
    return None if program is None else Path(program).resolve().parent


def missing() -> str | None:
    """Why PostgreSQL cannot be used here; None if it can."""
    if os.name != "posix" or programs() is None:
        return "PostgreSQL is not installed: apt-get install postgresql"
    if not has_account():
        return NO_ACCOUNT
    if os.geteuid() == 0 and (shutil.which("setpriv") is None or _user() is None):
        return "PostgreSQL refuses to run as root, and there is no user postgres or no setpriv"
    try:
        import psycopg  # noqa: F401
    except ImportError:
        return "psycopg is not installed: pip install '.[postgres]'"
    return None


def _user() -> int | None:
    import pwd

    try:
        return pwd.getpwnam("postgres").pw_uid
    except KeyError:
        return None


class Cluster:
    """A running PostgreSQL."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._programs = folder, programs()
        self._count = 0

    def run(self, program: str, *words: str) -> None:
        assert self._programs is not None
        command = [str(self._programs / program), *words]
        if os.geteuid() == 0:
            command = ["setpriv", "--reuid", "postgres", "--regid", "postgres", "--clear-groups", *command]
        # Its output goes to a file: the server inherits it, and a pipe would never end.
        with (self.folder / "output").open("ab") as output:
            subprocess.run(command, check=True, stdout=output, stderr=output, cwd="/", timeout=120)

    def start(self) -> None:
        # It is killed in some tests, but the machine is not: what was written without a flush is kept.
        quick = "-c fsync=off -c full_page_writes=off"
        options = f"-k {self.folder} -c listen_addresses='' {quick} -c max_connections=60"
        self.run(
            "pg_ctl",
            "start",
            "-w",
            "-D",
            str(self.folder / "data"),
            "-o",
            options,
            "-l",
            str(self.folder / "log"),
        )

    def stop(self, mode: str = "immediate") -> None:
        self.run("pg_ctl", "stop", "-w", "-D", str(self.folder / "data"), "-m", mode)

    def new_database(self, encoding: str | None = None) -> str:
        """Create an empty database, and return its URL for `ServerSettings`."""
        import psycopg

        self._count += 1
        name = f"test{self._count}"
        with psycopg.connect(
            host=str(self.folder), user="tester", dbname="postgres", autocommit=True
        ) as connection:
            how = f"ENCODING '{encoding}' LOCALE 'C' TEMPLATE template0" if encoding else ""
            connection.execute(f"CREATE DATABASE {name} {how}")
        return f"postgresql://tester@/{name}?host={self.folder}"


@contextmanager
def running_cluster() -> Iterator[Cluster]:
    """A cluster for the length of the block."""
    # A short path: a Unix socket's may have about a hundred characters.
    folder = Path(tempfile.mkdtemp(prefix="cu-pg-"))
    try:
        if os.geteuid() == 0:
            user = _user()
            assert user is not None
            os.chown(folder, user, -1)
        cluster = Cluster(folder)
        cluster.run(
            "initdb",
            "-D",
            str(folder / "data"),
            "-U",
            "tester",
            "-A",
            "trust",
            "-E",
            "UTF8",
            "--locale=C",
            "-N",
        )
        cluster.start()
        try:
            yield cluster
        finally:
            cluster.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
