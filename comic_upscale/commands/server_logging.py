"""The log of `serve` and `worker`: lines of text or JSON on standard error, and JSON in a file that is rotated."""

from __future__ import annotations

import json
import logging
import os
import re
import sys
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from io import TextIOWrapper
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Annotated

from annotated_types import Ge

from comic_upscale.errors import SettingsError
from comic_upscale.server.log_context import AddContext
from comic_upscale.server.recent_log import RecentLog
from comic_upscale.server.settings import ServerSettings
from comic_upscale.settings.limits import parse_bytes
from comic_upscale.settings.options import Opt, check, definitions

LEAST_SECRET = 6
"""Characters of a secret that is looked for in lines. A shorter one is part of ordinary words."""
_PATTERNS = (
    # API keys, and passwords in addresses.
    (re.compile(r"\bcu_([0-9a-f]{4,})_[A-Za-z0-9_-]+"), r"cu_\1_..."),
    (re.compile(r"(\w://[^/\s:@]*):[^/\s@]+@"), r"\1:...@"),
)


def _parse_size(text: str) -> int:
    return parse_bytes(text, "--log-file-size")


@dataclass(frozen=True, slots=True, kw_only=True)
class LogOptions:
    """What is logged, and where."""

    log_json: Annotated[bool, Opt("Log JSON, one object a line.")] = False
    log_file: Annotated[
        Path | None, Opt("Also log to this file, as JSON. It is rotated at --log-file-size.", metavar="FILE")
    ] = None
    log_file_size: Annotated[
        int, Ge(1024),
        Opt("Most bytes of the file of --log-file.", metavar="BYTES", default_text="10M", parse=_parse_size),
    ] = 10 << 20  # fmt: skip
    log_file_count: Annotated[
        int, Ge(1), Opt("Earlier files of --log-file that are kept: FILE.1 is the latest.", metavar="N")
    ] = 5
    verbose: Annotated[bool, Opt("Log every request and details.", flags=("--verbose", "-v"))] = False

    def __post_init__(self) -> None:
        """Check every value."""
        check(self)


LOG = definitions(LogOptions)


class _Private:
    """Removes secrets from lines.

    Args:
        secrets: texts that no line may contain.
    """

    def __init__(self, secrets: Collection[str]) -> None:
        # The longest first: one may contain another.
        found = sorted({each for each in secrets if len(each) >= LEAST_SECRET}, key=len, reverse=True)
        self._secrets = re.compile("|".join(map(re.escape, found))) if found else None

    def clean(self, line: str) -> str:
        """Return a line without secrets."""
        if self._secrets is not None:
            line = self._secrets.sub("...", line)
        for pattern, instead in _PATTERNS:
            line = pattern.sub(instead, line)
        return line


class TextLines(logging.Formatter):
    """A line of text for each record, with the ids of its request and job.

    Args:
        secrets: texts that no line may contain.
    """

    def __init__(self, secrets: Collection[str] = ()) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")
        self._private = _Private(secrets)

    def format(self, record: logging.LogRecord) -> str:
        """Return a record as text."""
        ids = [
            f"{name}={getattr(record, name)}" for name in ("request_id", "job_id") if hasattr(record, name)
        ]
        first, line_end, rest = super().format(record).partition("\n")
        shown = " [" + " ".join(ids) + "]" if ids else ""
        return self._private.clean(f"{first}{shown}{line_end}{rest}")


class JsonLines(logging.Formatter):
    """One JSON object a line.

    Args:
        secrets: texts that no line may contain.
    """

    _OWN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}

    def __init__(self, secrets: Collection[str] = ()) -> None:
        super().__init__()
        self._private = _Private(secrets)

    def format(self, record: logging.LogRecord) -> str:
        """Return a record as JSON."""
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line = {
            "at": at.replace("+00:00", "Z"), "level": record.levelname.lower(), "logger": str(record.name),
            "message": record.getMessage(),
        }  # fmt: skip
        line.update({name: str(value) for name, value in vars(record).items() if name not in self._OWN})
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        # Before JSON: it would write some characters of a secret in another way.
        return json.dumps(
            {name: self._private.clean(text) for name, text in line.items()}, ensure_ascii=False
        )


class _PrivateFile(RotatingFileHandler):
    """A file that only this user can read: lines may name files of all users."""

    def _open(self) -> TextIOWrapper:
        def create(path: str, flags: int) -> int:
            return os.open(path, flags, 0o600)

        return open(self.baseFilename, "a", encoding="utf-8", errors="backslashreplace", opener=create)


def secrets_of(settings: ServerSettings) -> list[str]:
    """Return the texts that no line of the log may contain."""
    # An address with a password in it has words that lines need: of it, only the password is a secret.
    values = [
        getattr(settings, option.name)
        for option in definitions(ServerSettings)
        if option.opt.secret and option.name not in ("database", "redis_url")
    ]
    return [*(value for value in values if value is not None), *settings.secret_keys]


def make_handlers(options: LogOptions, secrets: Collection[str] = ()) -> list[logging.Handler]:
    """Return the handlers of a log.

    Args:
        options: of the log.
        secrets: texts that no line may contain.

    Raises:
        SettingsError: the file cannot be written.
    """
    stream = logging.StreamHandler(sys.stderr)
    stream.setFormatter(JsonLines(secrets) if options.log_json else TextLines(secrets))
    handlers: list[logging.Handler] = [stream]
    if options.log_file is not None:
        try:
            file = _PrivateFile(
                options.log_file, maxBytes=options.log_file_size, backupCount=options.log_file_count
            )
        except OSError as error:
            raise SettingsError(
                f"--log-file: {options.log_file} cannot be written: {error.strerror or error}"
            ) from error
        file.setFormatter(JsonLines(secrets))
        handlers.append(file)
    for handler in handlers:
        handler.addFilter(AddContext())
    return handlers


def set_up_server_logging(
    options: LogOptions, settings: ServerSettings, recent: RecentLog | None = None
) -> None:
    """Log to standard error, and to a file if there is one.

    Args:
        options: of the log.
        settings: of the server.
        recent: keeps the last lines, too; None for nobody.

    Raises:
        SettingsError: as `make_handlers`.
    """
    secrets = secrets_of(settings)
    handlers = make_handlers(options, secrets)
    if recent is not None:
        recent.setFormatter(TextLines(secrets))
        recent.addFilter(AddContext())
        handlers.append(recent)
    level = logging.INFO if options.verbose else logging.WARNING
    logging.basicConfig(level=level, handlers=handlers)
    for name in ("PIL", "alembic", "libarchive", "uvicorn"):
        logging.getLogger(name).setLevel(logging.ERROR)
