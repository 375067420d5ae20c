"""The seam for providers of rented machines: what they offer, what was launched, and the interface of a client."""

from __future__ import annotations

import datetime as dt
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

PREFIX = "comic-upscale-"
"""The names of our machines begin with this, in each account. Machines with other names are never touched."""

MachineState = Literal["starting", "running", "ending", "failed"]

_NAME = re.compile(rf"{PREFIX}([0-9a-f]{{6}})-(\d{{10}})")
_TIME = "%y%m%d%H%M"


@dataclass(frozen=True, slots=True, kw_only=True)
class RentalOffer:
    """A machine that a provider offers now."""

    provider: str
    id: str
    """The provider's name for it."""
    gpu: str
    """The GPU, as the provider names it."""
    hour: float
    """Dollars an hour, with the disk."""
    kind: str = ""
    """``spot``, ``community``, ``secure`` and the like; empty where a provider has only one kind."""
    region: str = ""
    vcpus: int | None = None
    """Threads of the machine, if the offer names them."""
    egress_gb: float = 0.0
    """Dollars per GB sent from the machine."""
    ingress_gb: float = 0.0
    """Dollars per GB sent to the machine."""
    is_on_request: bool = False
    """Whether it is only for users who ask for spot instances."""

    @property
    def label(self) -> str:
        """The seller in words, unique among the offers of one search."""
        return " ".join(filter(None, (self.provider, self.kind, self.region, self.id)))


@dataclass(frozen=True, slots=True, kw_only=True)
class SshAddress:
    """Where the SSH server of a machine answers."""

    host: str
    port: int
    user: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RentedMachine:
    """A machine of ours, as its provider describes it."""

    provider: str
    id: str
    name: str
    state: MachineState
    gpu: str = ""
    hour: float | None = None
    """Dollars an hour; None if the provider does not say."""
    ssh: SshAddress | None = None
    """None until the provider knows the address."""
    started: dt.datetime | None = None
    """When its bill began, in UTC; None if the provider does not say."""
    problem: str = ""
    """What the provider says about a machine that failed."""

    @property
    def ends(self) -> dt.datetime | None:
        """When the machine ends itself, in UTC, as its name says."""
        return end_of(self.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchRequest:
    """What a new machine gets."""

    name: str
    """A name of `new_name`."""
    public_key: str
    """The line for ``authorized_keys``."""
    disk_gb: int
    """Disk in 10^9 bytes, at least 1."""
    max_hours: float
    """Hours after which the machine ends itself, above 0."""
    image: str | None = None
    """Image of the container or machine; None for the provider's default of this package."""


class Provider(Protocol):
    """A client of one provider. Its methods raise `ProviderError`, whose text never contains a key."""

    @property
    def name(self) -> str:
        """The name on the command line."""
        ...

    @property
    def end_command(self) -> str:
        """A command for ``sh`` on the machine that ends the machine, and as far as possible its bill."""
        ...

    @property
    def python(self) -> str | None:
        """The Python with PyTorch in the default image; None to search for it."""
        ...

    def offers(self, gpu: str | None, disk_gb: int) -> Sequence[RentalOffer]:
        """Return the machines with one GPU that can be launched now, in any order.

        Args:
            gpu: part of the name of a GPU; None for all. The caller filters again.
            disk_gb: the disk that the machine needs, whose price is part of the offer's.
        """
        ...

    def launch(self, offer: RentalOffer, request: LaunchRequest) -> str:
        """Launch a machine once, without a retry that could launch a second one, and return its ID.

        Raises:
            CapacityError: the offer is gone. Another one may succeed.
            UncertainError: the machine may exist nevertheless. `list` shows it by its name.
        """
        ...

    def find(self, id: str) -> RentedMachine | None:
        """Return a machine; None if it does not exist any more."""
        ...

    def list(self) -> tuple[RentedMachine, ...]:
        """Return all machines whose name begins with `PREFIX`, except those that have ended."""
        ...

    def terminate(self, id: str) -> None:
        """Ask the provider to end a machine and its bill. A machine that does not exist is no error."""
        ...

    def close(self) -> None:
        """Close connections."""
        ...


def new_name(ends: dt.datetime) -> str:
    """Return a unique name for a machine that ends itself at a time, which is part of the name.

    So every computer of the user, and the provider's own console, show when it ends.
    """
    return f"{PREFIX}{secrets.token_hex(3)}-{ends.astimezone(dt.UTC).strftime(_TIME)}"


def end_of(name: str) -> dt.datetime | None:
    """Return the time in a name of `new_name`, in UTC; None for other names."""
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    try:
        return dt.datetime.strptime(match[2], _TIME).replace(tzinfo=dt.UTC)
    except ValueError:
        return None


def is_ours(name: object) -> bool:
    """Return whether a machine is one of ours, by its name."""
    return isinstance(name, str) and name.startswith(PREFIX)
