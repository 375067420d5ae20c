"""The parts of a running server, which the routes share."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy.engine import Connection

from comic_upscale.errors import OutputError, SettingsError
from comic_upscale.server import audit
from comic_upscale.server.accounts import ANONYMOUS, ensure_user, find_user, has_admin, set_password
from comic_upscale.server.database.engine import Database
from comic_upscale.server.database.migrate import check_schema, migrate, schema_revision
from comic_upscale.server.estimates import Estimator
from comic_upscale.server.events import Hub
from comic_upscale.server.files import FileStore
from comic_upscale.server.ids import new_secret
from comic_upscale.server.known_keys import KnownKeys
from comic_upscale.server.links import Links
from comic_upscale.server.live import Live
from comic_upscale.server.metrics import Metrics
from comic_upscale.server.monitor import Monitor
from comic_upscale.server.passwords import Passwords, check_password
from comic_upscale.server.rates import Rates
from comic_upscale.server.recent_log import RecentLog
from comic_upscale.server.secret import load_secrets
from comic_upscale.server.settings import ServerSettings
from comic_upscale.server.storage import open_files
from comic_upscale.server.supervisor import Supervisor
from comic_upscale.server.weights_check import WeightsCheck


@dataclass(frozen=True, slots=True)
class Quoting:
    """What the estimates of this machine are made from."""

    rates_folder: Path
    """Measurements that ``comic-upscale bench`` stored."""
    prices: Path | None = None
    """A price list of the user's own."""


ENVIRONMENT_USER = "environment"
"""The user of the key in the variable ``API_KEY``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """What a request may use."""

    live: Live
    """What administrators change while the server runs."""
    database: Database
    files: FileStore
    links: Links
    rates: Rates
    """Counts requests for rate limits."""
    passwords: Passwords
    known_keys: KnownKeys
    """The accounts of keys that were used just now."""
    hub: Hub
    """Tells viewers of changes."""
    metrics: Metrics
    monitor: Monitor
    """Looks at the storage and the queue."""
    estimator: Estimator
    """Estimates when uploads will be done."""
    anonymous_id: str
    """The user that owns uploads without an account."""
    environment_id: str | None
    """The user of the key from the environment; None without such a key."""
    recent_log: RecentLog = field(default_factory=RecentLog)
    """The lines that the server logged last."""
    setup_token: str | None = None
    """Lets whoever has it create the first administrator; None if there is one, or a password for one."""
    supervisor: Supervisor | None = None
    """Starts the worker; None where workers are started in another way."""
    weights_check: WeightsCheck | None = None
    """Checks weights that administrators upload; None where nothing can load them, so that only workers do."""
    quoting: Quoting | None = None
    """Prices and measurements of this machine for estimates; None for the list prices alone."""

    @property
    def settings(self) -> ServerSettings:
        """The settings in force now."""
        return self.live.settings

    def wake(self) -> None:
        """Tell the supervisor that a job was queued."""
        if self.supervisor is not None:
            self.supervisor.wake()

    def problems(self) -> list[str]:
        """Return what is wrong with the worker, the queue and the storage, for the health report."""
        return self.monitor.problems() + ([] if self.supervisor is None else self.supervisor.problems())

    def close(self) -> None:
        """Close the database, and end the threads."""
        self.passwords.close()
        self.monitor.close()
        self.database.close()


def open_database(settings: ServerSettings, *, migrating: bool, may_create: bool = True) -> Database:
    """Open the database of a server, and bring it to the schema of this version if ``migrating``.

    Args:
        settings: of the server.
        migrating: whether an older schema is brought to that of this version; else it is refused.
        may_create: whether a migration may create a database that is missing.

    Raises:
        SettingsError: it is missing, and must not be created.
        DatabaseError: it cannot be used, or its schema is another.
        OutputError: the data folder cannot be created.
    """
    missing = SettingsError(
        f"there is no database of a server at {settings.database_address}: choose another --data or --database, or "
        "start `comic-upscale serve` there first"
    )
    may_create = may_create and migrating
    # Opening a file would create it.
    if not may_create and settings.database is None and not settings.database_file.exists():
        raise missing
    make_folder(settings.data)
    database = Database(settings.database_url)
    try:
        if not may_create and database.read(schema_revision) is None:
            raise missing
        if migrating:
            migrate(database)
        else:
            check_schema(database)
    except BaseException:
        database.close()
        raise
    return database


def has_database(settings: ServerSettings) -> bool:
    """Return whether the database of a server has a schema, of whatever version.

    Raises:
        DatabaseError: it cannot be used.
    """
    # Opening a file would create it.
    if settings.database is None and not settings.database_file.exists():
        return False
    database = Database(settings.database_url, readers=1)
    try:
        return database.read(schema_revision) is not None
    finally:
        database.close()


def make_folder(path: Path) -> None:
    """Create a folder that only this user can read, unless it exists.

    Raises:
        OutputError: it cannot be created.
    """
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise OutputError(f"{path} cannot be created: {error.strerror or error}") from error


def _seed_admin(settings: ServerSettings, database: Database, passwords: Passwords) -> None:
    """Create the first administrator, unless there is one.

    Raises:
        SettingsError: the password is poor, or a user of that name exists who is no administrator.
    """
    if database.read(has_admin):
        return
    name, password = settings.admin_seed_user, settings.admin_seed_pass or ""
    hashed = passwords.hash_now(check_password(password, name))

    def create(connection: Connection) -> None:
        user = find_user(connection, name)
        if user is not None and user["role"] != "admin":
            raise SettingsError(
                f"the user {name} exists and is not an administrator: choose another ADMIN_SEED_USER"
            )
        user_id = ensure_user(connection, name, "admin")
        set_password(connection, user_id, hashed, must_change=True)
        audit.record(connection, None, "user.create", name, role="admin")

    database.write(create)


def open_services(settings: ServerSettings) -> Services:
    """Open everything that a server needs; the caller closes it.

    Raises:
        DatabaseError, OutputError: as `open_database`.
        SettingsError: the first administrator cannot be created.
    """
    database = open_database(settings, migrating=True)
    passwords = Passwords()
    try:
        key_user = None
        if settings.admin_seed_pass is not None:
            _seed_admin(settings, database, passwords)
        anonymous = database.write(lambda connection: ensure_user(connection, ANONYMOUS, "anonymous"))
        if settings.api_key is not None:
            key_user = database.write(lambda connection: ensure_user(connection, ENVIRONMENT_USER, "user"))
        files = open_files(settings)
        known_keys = KnownKeys()
        database.on_change(("keys", "users"), known_keys.forget)
        live = Live(settings, database)
        live.read_now()
        monitor = Monitor(database, files, lambda: live.settings.jobs_per_user)
        return Services(
            live=live,
            database=database,
            files=files,
            known_keys=known_keys,
            hub=Hub(database),
            estimator=Estimator(database),
            monitor=monitor,
            metrics=Metrics(database, monitor.free_percent),
            links=Links(load_secrets(settings)),
            rates=Rates(settings.redis_url),
            passwords=passwords,
            anonymous_id=anonymous,
            environment_id=key_user,
            setup_token=None if database.read(has_admin) else new_secret(),
        )
    except BaseException:
        passwords.close()
        database.close()
        raise
