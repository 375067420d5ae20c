"""The life of a rented machine: launched once, waited for, and ended until its provider no longer lists it.

No failure leaves a machine behind that nobody knows. Each launch has a name of its own. After a launch that failed in
any way, the provider's list says whether a machine of that name exists, and it is ended before the next launch.
"""

from __future__ import annotations

import datetime as dt
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from comic_upscale.errors import CapacityError, ProviderError, RemoteError, UncertainError
from comic_upscale.provisioning.base import LaunchRequest, Provider, RentalOffer, RentedMachine, new_name

T = TypeVar("T")

Note = Callable[[str], None]
"""Called with a line about what happens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """How long each step may take, in seconds."""

    up_seconds: float = 900.0
    """From the launch until the machine runs: the host loads an image of several GB."""
    end_seconds: float = 600.0
    """Until an ended machine is no longer listed."""
    look_seconds: float = 5.0
    """Between two looks at a machine that starts."""
    looks_after_doubt: int = 4
    """How often the list is read after a launch that may have succeeded."""
    wait: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic


TIMING = Timing()


@dataclass(frozen=True, slots=True, kw_only=True)
class RentPlan:
    """What to rent."""

    offers: Sequence[tuple[Provider, RentalOffer]]
    """In the order in which they are tried, with the clients of their providers."""
    public_key: str
    disk_gb: int
    max_hours: Callable[[RentalOffer], float]
    """Hours after which a machine of this offer ends itself; raises an error if it must not be launched."""
    image: str | None = None
    attempts: int = 5
    """How many offers are tried, at least 1."""


def rent(
    plan: RentPlan,
    reach: Callable[[Provider, RentedMachine], T],
    on_launch: Callable[[RentedMachine], None],
    on_end: Callable[[str], None],
    note: Note,
    timing: Timing = TIMING,
) -> T:
    """Launch a machine from the first offer that works, and return what ``reach`` returns for it.

    Args:
        plan: the offers, and what a machine gets.
        reach: connects to a machine that runs; a `RemoteError` gives the machine up, and the next offer is tried.
        on_launch: called before each launch, and again when more is known about the machine.
        on_end: called with the name of a machine that was given up and is gone.
        note: called with a line about each step.
        timing: how long each step may take.

    Raises:
        ProviderError: no offer works, or a machine that was given up cannot be ended. Only then is one left.
    """
    last: RemoteError = ProviderError("no machine is offered that fits: try another GPU or provider")
    for provider, offer in plan.offers[: plan.attempts]:
        hours = plan.max_hours(offer)
        request = LaunchRequest(
            name=new_name(dt.datetime.now(dt.UTC) + dt.timedelta(minutes=math.ceil(hours * 60))),
            public_key=plan.public_key,
            disk_gb=plan.disk_gb,
            max_hours=hours,
            image=plan.image,
        )
        machine = RentedMachine(
            provider=provider.name, id="", name=request.name, state="starting", gpu=offer.gpu, hour=offer.hour,
            started=dt.datetime.now(dt.UTC),
        )  # fmt: skip
        note(f"renting {offer.gpu} at {offer.label}, ${offer.hour:.3g} per hour, as {request.name}")
        on_launch(machine)
        ids: list[str] = []
        try:
            ids.append(_launch(provider, offer, request, timing))
            up = _wait_until_up(provider, ids[0], request.name, timing)
            on_launch(up)
            return reach(provider, up)
        except BaseException as error:
            # Also for Ctrl-C: whatever happened, no machine stays behind.
            looks = 1 if ids else 2 if isinstance(error, CapacityError) else timing.looks_after_doubt
            end_machine(provider, request.name, ids, note=note, looks=looks, timing=timing)
            on_end(request.name)
            if not isinstance(error, RemoteError) or (
                isinstance(error, ProviderError) and not isinstance(error, (CapacityError, UncertainError))
            ):
                raise
            note(f"{error}; trying the next offer")
            last = error
    raise last


def _launch(provider: Provider, offer: RentalOffer, request: LaunchRequest, timing: Timing) -> str:
    """Launch a machine, and return its ID; also if the answer was lost but the list shows the machine."""
    try:
        id = provider.launch(offer, request)
    except UncertainError:
        for look in range(timing.looks_after_doubt):
            if look:
                timing.wait(timing.look_seconds)
            for machine in provider.list():
                if machine.name == request.name:
                    return machine.id
        raise
    if not id:
        raise UncertainError(f"{provider.name}: the answer to a launch names no machine")
    return id


def _wait_until_up(provider: Provider, id: str, name: str, timing: Timing) -> RentedMachine:
    """Wait until a machine runs and has an address.

    Raises:
        CapacityError: it failed, went away, or takes too long. Another offer may succeed.
    """
    until = timing.clock() + timing.up_seconds
    seen = False
    while True:
        machine = provider.find(id)
        if machine is not None:
            seen = True
            if machine.state == "running" and machine.ssh is not None:
                return machine
            if machine.state in ("failed", "ending"):
                raise CapacityError(f"{name} failed to start: {machine.problem or machine.state}")
        elif seen:
            raise CapacityError(f"{name} went away while it started")
        if timing.clock() >= until:
            raise CapacityError(f"{name} did not start within {timing.up_seconds:.0f} s")
        timing.wait(timing.look_seconds)


def end_machine(
    provider: Provider,
    name: str,
    ids: Iterable[str] = (),
    *,
    note: Note,
    looks: int = 1,
    timing: Timing = TIMING,
) -> None:
    """End a machine, and repeat it until the provider's own list no longer shows any machine of this name.

    Args:
        provider: the client of its provider.
        name: of the machine.
        ids: IDs that are known already; the list may not show a new machine yet.
        note: called with a line about each failure that is repeated.
        looks: how often in a row the list must not show it: more than once if a launch may still be carried out.
        timing: how long to repeat it.

    Raises:
        ProviderError: it is still listed when the time is up.
    """
    until = timing.clock() + timing.end_seconds
    known = {id for id in ids if id}
    pause, seen, problem = 1.0, 0, ""
    while True:
        failure = _terminate_all(provider, known)
        try:
            listed = [machine for machine in provider.list() if machine.name == name]
            seen = 0 if listed else seen + 1
            if seen >= looks:
                return
            known = {machine.id for machine in listed if machine.state != "ending"}
            failure = failure or (f"{provider.name} still lists it" if listed else "")
        except ProviderError as error:
            failure = str(error)
        if failure and failure != problem:
            note(f"{name} is not ended yet ({failure}); retrying")
        problem = failure or problem
        if timing.clock() + pause > until:
            raise ProviderError(
                f"{name} could NOT be ended ({problem}), and IS STILL BILLED. Run `comic-upscale rent down {name}`, "
                f"and check {provider.name}'s own console"
            )
        timing.wait(pause)
        pause = min(2 * pause, 30.0)


def _terminate_all(provider: Provider, ids: Iterable[str]) -> str:
    """Terminate machines, and return what failed; empty if nothing did."""
    failure = ""
    for id in sorted(ids):
        try:
            provider.terminate(id)
        except ProviderError as error:
            failure = str(error)
    return failure
