"""`ServerSettings`: the options of `comic-upscale serve`, its worker and the commands beside them."""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal, TypeAlias

from annotated_types import Ge, Gt, Le, Lt

from comic_upscale.errors import SettingsError
from comic_upscale.settings.limits import parse_bytes
from comic_upscale.settings.options import Group, Opt, check, require
from comic_upscale.settings.paths import absolute
from comic_upscale.settings.places import is_address, parse_place

Role: TypeAlias = Literal["all", "server", "worker"]
Backend: TypeAlias = Literal["local", "s3"]
MailSecurity: TypeAlias = Literal["starttls", "tls", "none"]

NETWORK, STORES, LIMITS, WORKERS, ACCOUNTS = (
    "Network", "Data", "Limits", "Worker", "Accounts and secrets",
)  # fmt: skip
"""Headings of the help."""

LEAST_SECRET = 16
"""Characters of a secret that signs links."""


def _parse_upload_size(text: str) -> int:
    return parse_bytes(text, "--max-upload-size")


def _parse_worker_memory(text: str) -> int:
    return parse_bytes(text, "--worker-memory")


def _is_webhook_secret(text: str) -> bool:
    try:
        return text.startswith("whsec_") and 24 <= len(base64.b64decode(text[6:], validate=True)) <= 64
    except ValueError:
        return False


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """The settings of one server. Every value is checked when the object is created.

    Raises:
        SettingsError: a value is out of range, or two values contradict each other.
    """

    GROUP: ClassVar[Group] = Group("server", sent="never")

    data: Annotated[
        Path,
        Opt(
            "Folder for the database, uploads and results.",
            metavar="DIR", default_text="the user's data folder", panel=STORES,
        ),
    ]  # fmt: skip
    database: Annotated[
        str | None,
        Opt(
            "URL of a PostgreSQL database: postgresql://user@host/name. Default: an SQLite file in the data folder.",
            metavar="URL", panel=STORES, environment=("DATABASE_URL",), secret=True,
        ),
    ] = None  # fmt: skip
    storage: Annotated[
        str | None,
        Opt(
            "Uploads and results: s3://bucket/prefix, gs://bucket/prefix, az://container/prefix, or a folder.",
            metavar="URL", default_text="files in the data folder", panel=STORES,
        ),
    ] = None  # fmt: skip
    storage_backend: Annotated[
        Backend | None,
        Opt(
            "s3: the storage is the bucket of S3_BUCKET. local: the data folder. --storage counts before it.",
            on_command_line=False, environment=("STORAGE_BACKEND",),
        ),
    ] = None  # fmt: skip
    s3_bucket: Annotated[
        str | None,
        Opt("Name of the bucket, or bucket/prefix.", on_command_line=False, environment=("S3_BUCKET",)),
    ] = None
    s3_endpoint: Annotated[
        str | None,
        Opt(
            "Address of an S3 server that is not Amazon's, such as https://minio.example:9000.",
            on_command_line=False, environment=("S3_ENDPOINT", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"),
        ),
    ] = None  # fmt: skip
    s3_region: Annotated[
        str | None,
        Opt(
            "Region of the bucket.",
            on_command_line=False, environment=("S3_REGION", "AWS_REGION", "AWS_DEFAULT_REGION"),
        ),
    ] = None  # fmt: skip
    s3_access_key_id: Annotated[
        str | None,
        Opt(
            "Key for the bucket. Default: the role of the machine.",
            on_command_line=False, environment=("AWS_ACCESS_KEY_ID", "S3_ACCESS_KEY"), secret=True,
        ),
    ] = None  # fmt: skip
    s3_secret_access_key: Annotated[
        str | None,
        Opt(
            "Secret of that key.",
            on_command_line=False, environment=("AWS_SECRET_ACCESS_KEY", "S3_SECRET_KEY"), secret=True,
        ),
    ] = None  # fmt: skip
    redis_url: Annotated[
        str | None,
        Opt(
            "Redis in which several servers count requests together: redis://host:6379/0. Default: each counts alone.",
            on_command_line=False, environment=("REDIS_URL",), secret=True,
        ),
    ] = None  # fmt: skip
    s3_session_token: Annotated[
        str | None,
        Opt(
            "Token of a temporary key.",
            on_command_line=False, environment=("AWS_SESSION_TOKEN",), secret=True,
        ),
    ] = None  # fmt: skip
    host: Annotated[
        str,
        Opt("Address to listen on. Choose 0.0.0.0 to accept connections from other machines.", panel=NETWORK),
    ] = "127.0.0.1"
    port: Annotated[
        int, Ge(0), Lt(65536),
        Opt("Port of the pages and the REST interface; 0 for a free one.", panel=NETWORK),
    ] = 5800  # fmt: skip
    api_port: Annotated[
        int, Ge(0), Lt(65536), Opt("Port of the REST interface alone; 0 for a free one.", panel=NETWORK)
    ] = 5900
    root_path: Annotated[
        str,
        Opt(
            "Path under which a reverse proxy shows the server, such as /comics. The proxy removes it from requests.",
            metavar="PATH", default_text="the root of the host", panel=NETWORK,
        ),
    ] = ""  # fmt: skip
    trusted_proxies: Annotated[
        tuple[str, ...],
        Opt(
            "Addresses of reverse proxies, separated by commas. Their X-Forwarded-For and X-Forwarded-Proto are "
            "believed; those of others are not.",
            on_command_line=False, environment=("FORWARDED_ALLOW_IPS",),
        ),
    ] = ()  # fmt: skip
    role: Annotated[
        Role, Opt("all: serve, and run jobs in a child process. server: serve only. worker: run jobs only.")
    ] = "all"
    public: Annotated[
        bool, Opt("Accept uploads without an account, within limits for each address.", panel=ACCOUNTS)
    ] = False
    secret_key: Annotated[
        str | None,
        Opt(
            "Signs links. Several, separated by commas, rotate: the last one signs, all of them verify. "
            "Default: a random key in the data folder.",
            on_command_line=False, environment=("SECRET_KEY",), secret=True,
        ),
    ] = None  # fmt: skip
    admin_seed_user: Annotated[
        str,
        Opt("Name of the first administrator.", on_command_line=False, environment=("ADMIN_SEED_USER",)),
    ] = "admin"
    admin_seed_pass: Annotated[
        str | None,
        Opt(
            "First password of that administrator, who must change it at the first login. It is used only while "
            "there is no administrator.",
            on_command_line=False, environment=("ADMIN_SEED_PASS",), secret=True,
        ),
    ] = None  # fmt: skip
    api_key: Annotated[
        str | None,
        Opt(
            "An API key chosen by you, at least 16 characters. It belongs to the user `environment`.",
            on_command_line=False, environment=("API_KEY",), secret=True,
        ),
    ] = None  # fmt: skip
    webhook_secret: Annotated[
        str | None,
        Opt(
            "Signs webhooks, as Standard Webhooks says: whsec_ and base64. Without it, a callback_url is refused.",
            on_command_line=False, environment=("WEBHOOK_SECRET",), secret=True,
        ),
    ] = None  # fmt: skip
    public_url: Annotated[
        str | None,
        Opt(
            "Address of the pages for users, such as https://comics.example. Links in mail begin with it.",
            on_command_line=False, environment=("PUBLIC_URL",),
        ),
    ] = None  # fmt: skip
    smtp_host: Annotated[
        str | None,
        Opt(
            "Mail server for mail when a job ends. Without it, an email address with an upload is refused.",
            on_command_line=False, environment=("SMTP_HOST",),
        ),
    ] = None  # fmt: skip
    smtp_port: Annotated[
        int, Ge(1), Lt(65536), Opt("Port of the mail server.", on_command_line=False, environment=("SMTP_PORT",))
    ] = 587  # fmt: skip
    smtp_tls: Annotated[
        MailSecurity,
        Opt(
            "starttls: encrypt after the greeting (port 587). tls: encrypt from the start (port 465). none: only for a "
            "mail server on this machine.",
            on_command_line=False, environment=("SMTP_TLS",),
        ),
    ] = "starttls"  # fmt: skip
    smtp_user: Annotated[
        str | None, Opt("User of the mail server.", on_command_line=False, environment=("SMTP_USER",))
    ] = None
    smtp_password: Annotated[
        str | None,
        Opt("Password of that user.", on_command_line=False, environment=("SMTP_PASSWORD",), secret=True),
    ] = None
    smtp_from: Annotated[
        str | None,
        Opt("Address from which mail comes.", on_command_line=False, environment=("SMTP_FROM",)),
    ] = None
    max_upload_size: Annotated[
        int, Ge(1), Le(1 << 50),
        Opt(
            "Refuse uploads with more bytes than this.",
            metavar="BYTES", default_text="2G", panel=LIMITS, parse=_parse_upload_size,
            environment=("MAX_UPLOAD_SIZE_BYTES",),
        ),
    ] = 2 << 30  # fmt: skip
    max_files: Annotated[
        int, Ge(1), Le(1_000_000), Opt("Refuse uploads with more files than this.", metavar="N", panel=LIMITS)
    ] = 2000
    accepted_types: Annotated[
        tuple[str, ...],
        Opt(
            "Extensions of the files that uploads may have, such as png,jpg,cbz. Default: all that can be read.",
            on_command_line=False,
        ),
    ] = ()  # fmt: skip
    roots: Annotated[
        tuple[str, ...],
        Opt(
            "A folder of this machine, or s3://bucket/prefix, that jobs of administrators may read and write: the "
            "library. Can be repeated.",
            flags=("--root",), metavar="DIR", panel=STORES,
        ),
    ] = ()  # fmt: skip
    library_users: Annotated[
        tuple[str, ...],
        Opt(
            "Users who may also upscale what is below a --root, such as ann,bob. Administrators always may.",
            on_command_line=False,
        ),
    ] = ()  # fmt: skip
    rate_limit: Annotated[
        int, Ge(1), Le(1_000_000_000),
        Opt(
            "Requests in a minute, for each account or address.",
            metavar="N", panel=LIMITS, environment=("RATE_LIMIT_PER_MINUTE",),
        ),
    ] = 600  # fmt: skip
    uploads_per_hour: Annotated[
        int, Ge(1), Le(1_000_000_000),
        Opt("Uploads in an hour without an account, for each address.", metavar="N", panel=LIMITS),
    ] = 10  # fmt: skip
    jobs_per_user: Annotated[
        int,
        Ge(1),
        Le(1_000_000),
        Opt("Jobs of one user that run at the same time.", metavar="N", panel=LIMITS),
    ] = 2
    job_timeout: Annotated[
        float | None, Gt(0), Le(1e9),
        Opt(
            "Seconds after which a running job fails.",
            metavar="SECONDS", default_text="no limit", panel=LIMITS, environment=("JOB_TIMEOUT_SECONDS",),
        ),
    ] = None  # fmt: skip
    min_free_disk: Annotated[
        float, Ge(0), Le(90),
        Opt("Refuse uploads while less than this share of the disk is free.", metavar="PERCENT", panel=LIMITS),
    ] = 5.0  # fmt: skip
    retention_days: Annotated[
        float, Gt(0), Le(36_500),
        Opt("Days after which originals and results are deleted.", metavar="DAYS", panel=LIMITS),
    ] = 30.0  # fmt: skip
    anonymous_hours: Annotated[
        float, Gt(0), Le(876_000),
        Opt("Hours after which uploads without an account are deleted.", metavar="HOURS", panel=LIMITS),
    ] = 1.0  # fmt: skip
    price: Annotated[
        float, Ge(0), Le(1e6),
        Opt(
            "Dollars an hour that this server costs while it works. Estimates then say what a job costs.",
            metavar="DOLLARS", panel=LIMITS, environment=("PRICE_PER_HOUR",),
        ),
    ] = 0.0  # fmt: skip
    device: Annotated[
        str,
        Opt(
            "Device of the worker: auto, cpu, cuda, cuda:1, xpu or mps.",
            flags=("--device", "-d"), panel=WORKERS, environment=("ML_WORKER_BACKEND",),
        ),
    ] = "auto"  # fmt: skip
    face_model: Annotated[
        Path | None,
        Opt(
            "Weights of GFPGAN or RestoreFormer. With them, a request may ask for refine_faces, and the preset face "
            "does so.",
            metavar="FILE", panel=WORKERS,
        ),
    ] = None  # fmt: skip
    flux_options: Annotated[
        tuple[str, ...],
        Opt(
            "An option of the engine flux, such as pipeline=FOLDER. With it, /api/upscale/flux is there. Can be "
            "repeated.",
            flags=("--flux-option",), metavar="NAME=VALUE", panel=WORKERS,
        ),
    ] = ()  # fmt: skip
    imagen_options: Annotated[
        tuple[str, ...],
        Opt(
            "An option of the engine imagen, such as project=ID and price_per_image=0.06. With it, /api/upscale/imagen "
            "is there, and every request costs money. Can be repeated.",
            flags=("--imagen-option",), metavar="NAME=VALUE", panel=WORKERS,
        ),
    ] = ()  # fmt: skip
    imagen_max_cost: Annotated[
        float, Ge(0),
        Opt("The most dollars that a job may spend on calls of Imagen.", metavar="DOLLARS", panel=WORKERS),
    ] = 1.0  # fmt: skip
    worker_threads: Annotated[
        int | None, Ge(1),
        Opt("Threads of the worker that decode and encode.", default_text="one per core", panel=WORKERS),
    ] = None  # fmt: skip
    worker_concurrency: Annotated[
        int, Ge(1), Le(16),
        Opt(
            "Jobs that the worker runs at the same time, on the same engines. Interactive jobs start beside them.",
            metavar="N", panel=WORKERS, environment=("WORKER_CONCURRENCY", "MAX_CONCURRENT_JOBS"),
        ),
    ] = 1  # fmt: skip
    cluster: Annotated[
        str | None,
        Opt(
            "A Ray cluster that processes the pages of jobs in the batch lane: auto, or ray://HOST:10001.",
            metavar="ADDRESS", panel=WORKERS, environment=("RAY_CLUSTER",),
        ),
    ] = None  # fmt: skip
    worker_socket: Annotated[
        Path | None,
        Opt(
            "Socket at which the worker also takes pages of comic-upscale run --worker. Its folder must be private.",
            on_command_line=False, environment=("ML_WORKER_SOCKET",),
        ),
    ] = None  # fmt: skip
    worker_idle_timeout: Annotated[
        float, Gt(0),
        Opt(
            "Seconds without a job after which the worker ends and frees its memory. The next job starts it again.",
            metavar="SECONDS", panel=WORKERS, environment=("ML_WORKER_IDLE_TIMEOUT",),
        ),
    ] = 300.0  # fmt: skip

    worker_memory: Annotated[
        int | None, Ge(256 << 20),
        Opt(
            "Most bytes of memory that the worker may allocate. A page that needs more fails alone. Linux only; it "
            "does not count memory of a GPU. Each process that decodes and encodes beside a GPU has the same limit.",
            metavar="BYTES", default_text="no limit", panel=WORKERS, parse=_parse_worker_memory,
        ),
    ] = None  # fmt: skip
    save_interval: Annotated[
        float, Ge(0.1),
        Opt(
            "Seconds between two saves of a running job to a storage that other workers use, too. They continue from "
            "there.",
            metavar="SECONDS", panel=WORKERS, on_command_line=False,
        ),
    ] = 5.0  # fmt: skip

    def __post_init__(self) -> None:
        """Check every value."""
        check(self)
        if self.database is not None:
            require(
                self.database.startswith(("postgresql://", "postgresql+psycopg://")),
                "--database must be a URL such as postgresql://user@host/name; without it, the server uses SQLite",
            )
        require(
            self.redis_url is None or self.redis_url.startswith(("redis://", "rediss://")),
            "REDIS_URL must be a URL such as redis://host:6379/0",
        )
        kind, found, _ = (self.storage or "").partition("://")
        require(
            not found or kind in ("s3", "gs", "az"),
            "--storage must be s3://bucket/prefix, gs://bucket/prefix, az://container/prefix, or a folder",
        )
        require(
            self.storage_backend != "s3" or bool(self.storage or self.s3_bucket),
            "STORAGE_BACKEND=s3 needs S3_BUCKET: the name of the bucket",
        )
        require(
            (self.s3_access_key_id is None) == (self.s3_secret_access_key is None),
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY belong together: set both or none",
        )
        require(
            re.fullmatch(r"(/[A-Za-z0-9._~-]+)*", self.root_path) is not None,
            "--root-path must be a path such as /comics, without a slash at its end",
        )
        if self.webhook_secret is not None:
            require(
                _is_webhook_secret(self.webhook_secret),
                "WEBHOOK_SECRET must be whsec_ followed by 24 to 64 bytes in base64",
            )
        for root in self.root_buckets:
            try:
                parse_place(root)
            except SettingsError:
                raise SettingsError(
                    f"--root must be a folder or an address such as s3://bucket/prefix, not {root[:200]}"
                ) from None
        self._check_mail()
        if self.accepted_types:
            self._check_types()
        for name, secrets in (("SECRET_KEY", self.secret_keys), ("API_KEY", [self.api_key])):
            require(
                all(secret is None or len(secret) >= LEAST_SECRET for secret in secrets),
                f"{name} must have at least {LEAST_SECRET} characters",
            )

    def _check_types(self) -> None:
        from comic_upscale.imaging.formats import ARCHIVE_EXTENSIONS, IMAGE_EXTENSIONS

        known = IMAGE_EXTENSIONS | ARCHIVE_EXTENSIONS
        if unknown := [each for each in self.accepted_extensions if each not in known]:
            raise SettingsError(
                f"accepted_types has {unknown[0][:64]!r}, which is no type that can be read: choose from "
                f"{', '.join(sorted(known))}"
            )

    def _check_mail(self) -> None:
        if self.public_url is not None:
            require(
                re.fullmatch(r"https?://[A-Za-z0-9.:\[\]-]+(/[A-Za-z0-9._~-]+)*", self.public_url)
                is not None,
                "PUBLIC_URL must be an address such as https://comics.example, without a slash at its end",
            )
        if self.smtp_host is None:
            return
        require(
            self.smtp_from is not None and re.fullmatch(r"[!-?A-~]+@[!-?A-~]+", self.smtp_from) is not None,
            "SMTP_HOST needs SMTP_FROM: the address from which mail comes, such as comics@example.com",
        )
        require(
            self.public_url is not None,
            "SMTP_HOST needs PUBLIC_URL: the address of the pages for users, such as https://comics.example",
        )
        require(
            self.smtp_user is None
            or self.smtp_tls != "none"
            or self.smtp_host in ("localhost", "127.0.0.1", "::1"),
            "SMTP_TLS=none would send the password of SMTP_USER in the clear: choose starttls or tls",
        )

    @property
    def accepted_extensions(self) -> tuple[str, ...]:
        """The extensions of ``accepted_types``, lower case, without the dot; empty for all that can be read."""
        return tuple(dict.fromkeys(each.strip().lower().removeprefix(".") for each in self.accepted_types))

    @property
    def secret_keys(self) -> list[str]:
        """The secrets of ``secret_key``, oldest first; empty without one."""
        return [] if self.secret_key is None else [secret.strip() for secret in self.secret_key.split(",")]

    @property
    def root_folders(self) -> tuple[Path, ...]:
        """The folders among the roots."""
        return tuple(Path(root) for root in self.roots if not is_address(root))

    @property
    def root_buckets(self) -> tuple[str, ...]:
        """The addresses of buckets among the roots."""
        return tuple(root for root in self.roots if is_address(root))

    @property
    def storage_address(self) -> str:
        """The folder of uploads and results, or the address of a bucket."""
        if self.storage is not None:
            return self.storage if "://" in self.storage else str(absolute(Path(self.storage)))
        if self.storage_backend == "s3":
            return f"s3://{self.s3_bucket}"
        return str(self.data / "files")

    @property
    def has_shared_storage(self) -> bool:
        """Whether workers with other data folders may use the storage, too."""
        return self.storage is not None or self.storage_backend == "s3"

    @property
    def database_url(self) -> str:
        """The URL of the database, for SQLAlchemy."""
        if self.database is None:
            return f"sqlite+pysqlite:///{self.database_file}"
        return "postgresql+psycopg://" + self.database.split("://", 1)[1]

    @property
    def database_address(self) -> str:
        """Where the database is, for people: a file, or an address without the password."""
        if self.database is None:
            return str(self.database_file)
        from sqlalchemy.engine import make_url

        # A password may also be in the query.
        shown = make_url(self.database_url).set(drivername="postgresql", query={})
        return shown.render_as_string(hide_password=True)

    @property
    def database_file(self) -> Path:
        """The file of the database, if it is SQLite."""
        return self.data / "server.sqlite3"
