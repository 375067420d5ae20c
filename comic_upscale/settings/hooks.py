"""`HookSettings`: what is told to other programs when a volume or a job is done."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from typing import Annotated, ClassVar
from urllib.parse import urlsplit

from annotated_types import Gt, Le

from comic_upscale.errors import SettingsError
from comic_upscale.settings.options import Group, Opt, check, require

HOOKS = "When a volume or a job is done"
"""Heading of the help."""


@dataclass(frozen=True, kw_only=True)
class HookSettings:
    """Commands, webhooks and library scans. They are options of a run, and no job or ledger records them.

    Raises:
        SettingsError: a value is not allowed.
    """

    GROUP: ClassVar[Group] = Group("hooks", sent="never")

    on_volume_done: Annotated[
        str | None,
        Opt(
            "Run this program when a volume is complete. No shell: 'notify-send done' is a program and one argument. "
            "Variables such as COMIC_UPSCALE_HOOK_FILE say what is done.",
            metavar="COMMAND", panel=HOOKS,
        ),
    ] = None  # fmt: skip
    on_job_done: Annotated[
        str | None,
        Opt("Run this program when the run has ended.", metavar="COMMAND", panel=HOOKS),
    ] = None
    webhook: Annotated[
        str | None,
        Opt(
            "Send a webhook to this address when a volume is complete and when the run has ended.",
            metavar="URL", panel=HOOKS,
        ),
    ] = field(default=None, repr=False)  # fmt: skip
    webhook_secret: Annotated[
        str | None,
        Opt(
            "Sign webhooks with this secret: whsec_ and base64, as in Standard Webhooks.",
            metavar="SECRET", panel=HOOKS, on_command_line=False, secret=True,
        ),
    ] = field(default=None, repr=False)  # fmt: skip
    komga: Annotated[
        str | None,
        Opt(
            "Let Komga at this address scan its libraries. The variable COMIC_UPSCALE_KOMGA_KEY has an API key of an "
            "administrator.",
            metavar="URL", panel=HOOKS,
        ),
    ] = None  # fmt: skip
    komga_library: Annotated[
        tuple[str, ...],
        Opt(
            "Scan only the library with this id or name. Can be repeated.",
            metavar="ID|NAME", panel=HOOKS,
        ),
    ] = ()  # fmt: skip
    komga_key: Annotated[
        str | None, Opt("API key for Komga.", metavar="KEY", panel=HOOKS, on_command_line=False, secret=True)
    ] = field(default=None, repr=False)
    kavita: Annotated[
        str | None,
        Opt(
            "Let Kavita at this address scan its libraries. The variable COMIC_UPSCALE_KAVITA_KEY has an API key of an "
            "administrator.",
            metavar="URL", panel=HOOKS,
        ),
    ] = None  # fmt: skip
    kavita_library: Annotated[
        tuple[str, ...],
        Opt(
            "Scan only the library with this id or name. Can be repeated.",
            metavar="ID|NAME", panel=HOOKS,
        ),
    ] = ()  # fmt: skip
    kavita_key: Annotated[
        str | None, Opt("API key for Kavita.", metavar="KEY", panel=HOOKS, on_command_line=False, secret=True)
    ] = field(default=None, repr=False)
    hook_timeout: Annotated[
        float, Gt(0), Le(86_400),
        Opt("Seconds after which a program is ended, and the retries of a message.", metavar="N", panel=HOOKS),
    ] = 120.0  # fmt: skip

    def __post_init__(self) -> None:
        """Check every value."""
        check(self)
        for flag, words in (
            ("--on-volume-done", self.on_volume_done),
            ("--on-job-done", self.on_job_done),
        ):
            if words is not None:
                split_command(words, flag)
        for flag, url in (("--webhook", self.webhook), ("--komga", self.komga), ("--kavita", self.kavita)):
            if url is not None:
                _check_url(url, flag)
        for name in ("komga", "kavita"):
            variable = f"COMIC_UPSCALE_{name.upper()}_KEY"
            has_url, has_key = getattr(self, name) is not None, getattr(self, f"{name}_key") is not None
            require(has_key or not has_url, f"--{name} needs an API key: put it into the variable {variable}")
            require(
                has_url or not getattr(self, f"{name}_library"),
                f"--{name}-library needs the address of the server: add --{name} URL",
            )

    @property
    def is_empty(self) -> bool:
        """Whether there is no hook."""
        return not any((self.on_volume_done, self.on_job_done, self.webhook, self.komga, self.kavita))


def split_command(command: str, flag: str) -> list[str]:
    """Return the program and its arguments.

    Raises:
        SettingsError: there is no program, or a quote is not closed.
    """
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise SettingsError(f"{flag} cannot be read as a command: {error}") from None
    require(bool(words), f"{flag} is empty: name a program")
    return words


def _check_url(url: str, flag: str) -> None:
    try:
        parts = urlsplit(url)
        is_good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.username is None
        _ = parts.port
    except ValueError:
        is_good = False
    # The value is not printed: a password may be in it.
    require(
        is_good, f"{flag} must be an address such as https://example.org/path, without a user and a password"
    )
