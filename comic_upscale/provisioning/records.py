"""The user's records of rented machines: a file each, written before the launch, and what SSH needs to reach it."""

from __future__ import annotations

import datetime as dt
import json
import re
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from comic_upscale.costs.spending import dollars
from comic_upscale.errors import SettingsError
from comic_upscale.provisioning.base import PREFIX, RentedMachine
from comic_upscale.storage.atomic import write_whole

_NAME = re.compile(rf"{PREFIX}[0-9A-Za-z-]{{1,60}}")
_MOST_BYTES = 1 << 16


@dataclass(frozen=True, slots=True, kw_only=True)
class RentalRecord:
    """What this computer knows about a machine that it rented."""

    name: str
    provider: str
    id: str = ""
    """Empty until the launch succeeded."""
    gpu: str = ""
    hour: float | None = None
    """Dollars an hour."""
    launched: str = ""
    """In UTC, as ISO text."""
    ended: str | None = None
    """When its provider no longer listed it; None before."""

    def cost(self, now: dt.datetime) -> float | None:
        """Return the dollars so far, or in all once it has ended; None without a price."""
        try:
            until = now if self.ended is None else dt.datetime.fromisoformat(self.ended)
            seconds = (until - dt.datetime.fromisoformat(self.launched)).total_seconds()
        except (ValueError, TypeError):
            return None
        return None if self.hour is None else dollars(max(0.0, seconds), self.hour)


class Records:
    """The folder of the records.

    Args:
        folder: made when needed.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def note_machine(self, machine: RentedMachine) -> None:
        """Write down a machine that is launched, or what became known about it."""
        before = self.get(machine.name)
        known = before or RentalRecord(
            name=machine.name,
            provider=machine.provider,
            launched=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        )
        self._write(
            replace(
                known,
                id=machine.id or known.id,
                gpu=known.gpu or machine.gpu,
                # The provider's own price counts, once it names one.
                hour=known.hour if machine.hour is None else machine.hour,
                # It was not listed yet when somebody looked.
                ended=None,
            )
        )
        if machine.ssh is not None:
            self._write_ssh_config(machine)

    def note_end(self, name: str) -> RentalRecord | None:
        """Write down that a machine has ended, and return its record; None if this computer did not rent it."""
        record = self.get(name)
        if record is None or record.ended is not None:
            return record
        record = replace(record, ended=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"))
        self._write(record)
        self.ssh_config(name).unlink(missing_ok=True)
        self._known_hosts(name).unlink(missing_ok=True)
        return record

    def get(self, name: str) -> RentalRecord | None:
        """Return the record of a machine; None if there is none, or it cannot be read."""
        if _NAME.fullmatch(name) is None:
            return None
        try:
            with self._path(name).open("rb") as file:
                values = json.loads(file.read(_MOST_BYTES))
        except (OSError, ValueError):
            return None
        return _record(name, values)

    def all(self) -> list[RentalRecord]:
        """Return all records, the oldest first."""
        names = sorted(path.stem for path in self.folder.glob(f"{PREFIX}*.json"))
        found = [record for name in names if (record := self.get(name)) is not None]
        return sorted(found, key=lambda record: record.launched)

    def ssh_config(self, name: str) -> Path:
        """Return the path of the OpenSSH configuration for a machine, which exists while the machine is rented."""
        return self.folder / f"{name}.ssh"

    def key(self) -> tuple[Path, str]:
        """Return the private key for rented machines and its public line; make it the first time.

        Raises:
            SettingsError: it cannot be made.
        """
        private, public = self.folder / "id_ed25519", self.folder / "id_ed25519.pub"
        try:
            if not (private.is_file() and public.is_file()):
                self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                _make_key(private, public)
            return private, public.read_text(encoding="ascii").strip()
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise SettingsError(f"the key {private} cannot be made or read: {reason}") from error

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.json"

    def _known_hosts(self, name: str) -> Path:
        return self.folder / f"{name}.known_hosts"

    def _write(self, record: RentalRecord) -> None:
        write_whole(json.dumps(asdict(record), indent=1).encode(), self._path(record.name))

    def _write_ssh_config(self, machine: RentedMachine) -> None:
        """Write a configuration of its own: providers give the same address to other machines later."""
        assert machine.ssh is not None
        private, _ = self.key()
        lines = (
            f"Host {machine.name}", f"  HostName {_word(machine.ssh.host)}", f"  Port {machine.ssh.port}",
            f"  User {_word(machine.ssh.user)}", f'  IdentityFile "{private}"', "  IdentitiesOnly yes",
            f'  UserKnownHostsFile "{self._known_hosts(machine.name)}"',
        )  # fmt: skip
        write_whole(("\n".join(lines) + "\n").encode(), self.ssh_config(machine.name))


def _word(text: str) -> str:
    """Return a name or address from a provider, which must be one word.

    Raises:
        SettingsError: it is not.
    """
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,253}", text) is None:
        raise SettingsError(f"the provider names an address that is none: {text[:60]!r}")
    return text


def _record(name: str, values: Any) -> RentalRecord | None:
    if not isinstance(values, dict):
        return None
    hour, ended = values.get("hour"), values.get("ended")
    texts = {key: str(values.get(key, "")) for key in ("provider", "id", "gpu", "launched")}
    return RentalRecord(
        name=name,
        hour=float(hour) if isinstance(hour, (int, float)) and not isinstance(hour, bool) else None,
        ended=ended if isinstance(ended, str) else None,
        **texts,
    )


def _make_key(private: Path, public: Path) -> None:
    """Write a key pair of its own, as ``ssh-keygen -t ed25519`` does, readable for the user alone."""
    import os

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        NoEncryption,
        PrivateFormat,
        PublicFormat,
    )

    key = Ed25519PrivateKey.generate()
    private.unlink(missing_ok=True)
    with os.fdopen(os.open(private, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    line = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    write_whole(line + b" comic-upscale\n", public)
