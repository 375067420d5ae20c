"""Keys and addresses of providers, from the environment and from the files of the providers' own programs."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from comic_upscale.commands.environment import user_folder
from comic_upscale.errors import SettingsError
from comic_upscale.provisioning.base import PREFIX, Provider
from comic_upscale.provisioning.registry import ANY, PROVIDERS, open_provider

if TYPE_CHECKING:
    from comic_upscale.provisioning.records import Records

_MOST_BYTES = 1 << 16
_ASSIGNED = re.compile(r"^\s*api_?key\s*=\s*[\"']?([^\s\"']+)", re.IGNORECASE | re.MULTILINE)


def rent_records() -> Records:
    """Return the records of this user's rented machines."""
    from comic_upscale.provisioning.records import Records

    return Records(user_folder("state") / "rented")


def rented_ssh_config(host: str) -> Path | None:
    """Return the OpenSSH configuration of a rented machine by its name; None for any other host."""
    if not host.startswith(PREFIX) or "/" in host:
        return None
    path = rent_records().ssh_config(host)
    return path if path.is_file() else None


NO_KEY = "no key is known"
NO_PROGRAM = "its program is not installed"
UNUSED = (NO_KEY, NO_PROGRAM)
"""Why a provider cannot be asked that the user does not use."""


def open_known(without: Collection[str] = ()) -> tuple[list[Provider], dict[str, str]]:
    """Return the clients of all providers whose key is known, and why the others cannot be asked, by their names.

    Each is opened on its own, so one that is badly configured does not keep the others from being asked.

    Args:
        without: providers to leave out.
    """
    opened: list[Provider] = []
    unasked: dict[str, str] = {}
    for name in PROVIDERS:
        if name in without:
            continue
        try:
            if provider_key(name) is None:
                unasked[name] = NO_PROGRAM if PROVIDERS[name].program else NO_KEY
            else:
                opened.append(_open(name))
        except SettingsError as error:
            unasked[name] = str(error)
    return opened, unasked


def provider_key(name: str) -> str | None:
    """Return the key of a provider; None if none is known. For AWS, boto3 reads the key itself: it is only found here.

    A provider with a program of its own needs no key here: it is known where the program is installed.

    Raises:
        SettingsError: a file that a variable names cannot be read.
    """
    entry = PROVIDERS[name]
    if entry.program:
        return None if shutil.which(os.environ.get(entry.url_variable) or entry.program) is None else ""
    if key := os.environ.get(entry.key_variable, "").strip():
        return key
    if named := os.environ.get(f"{entry.key_variable}_FILE", ""):
        try:
            return _key_in(Path(named))
        except OSError as error:
            raise SettingsError(
                f"{entry.key_variable}_FILE: {named} cannot be read: {error.strerror or error}"
            ) from None
    home = Path(os.path.expanduser("~"))  # noqa: PTH111 - without a home folder it stays as it is
    if name == "aws":
        known = any((home / ".aws" / file).is_file() for file in ("credentials", "config"))
        return "" if known or os.environ.get("AWS_PROFILE") else None
    for file in entry.key_files:
        try:
            return _key_in(home / file)
        except OSError:
            continue
    return None


def _key_in(path: Path) -> str:
    """Return the key in a file: its only word, or what ``api_key = `` assigns.

    Raises:
        OSError: it cannot be read, or contains no key.
    """
    with path.open("rb") as file:
        text = file.read(_MOST_BYTES).decode(errors="replace").strip()
    found = _ASSIGNED.search(text)
    key = found[1] if found else text
    if not key or len(key.split()) != 1:
        raise OSError("it contains no key")
    return key


def open_providers(target: str) -> list[Provider]:
    """Return the client of a provider, or those of all providers whose key is known.

    Of all, one that is badly configured is left out, with a note, if another one can be asked.

    Args:
        target: a name of `PROVIDERS`, or ``any``.

    Raises:
        SettingsError: no key is known, or no provider can be opened.
    """
    from comic_upscale.commands.rented import note

    if target != ANY:
        return [_open(target)]
    opened, unasked = open_known()
    failures = [f"{name}: {reason}" for name, reason in unasked.items() if reason not in UNUSED]
    if not opened and failures:
        raise SettingsError("; ".join(failures))
    for failure in failures:
        note(f"note: {failure}")
    if not opened:
        variables = ", ".join(filter(None, (entry.key_variable for entry in PROVIDERS.values())))
        raise SettingsError(f"no key of a provider is known: set one of {variables}")
    return opened


def _open(name: str) -> Provider:
    """Return the client of a provider.

    Raises:
        SettingsError: its key is not known, or it is badly configured.
    """
    key, entry = provider_key(name), PROVIDERS[name]
    if key is None and name != "aws" and not entry.program:
        raise SettingsError(
            f"no key for {name} is known: set {entry.key_variable}, or {entry.key_variable}_FILE to a file with it"
        )
    return open_provider(name, key or "", os.environ.get(entry.url_variable) or None)
