"""The life of a rented machine: launched once, waited for, and ended until its provider no longer lists it.

No failure leaves a machine behind that nobody knows. Each launch has a name of its own. After a launch that failed in
any way, the provider's list says whether a machine of that name exists, and it is ended before the next launch.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from comic_upscale.errors import CapacityError, ProviderError, RemoteError, UncertainError
from comic_upscale.provisioning.base import LaunchRequest, Provider, RentalOffer, RentedMachine, new_name
from comic_upscale.provisioning.ending import ending

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
    new_seconds: float = 60.0
    """How long after its launch a machine may be missing from the list, and unknown to a request that ends it."""
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
    note = _quiet(note)
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
        launched: float | None = timing.clock()
        try:
            ids.append(_launch(provider, offer, request, timing))
            up = _wait_until_up(provider, ids[0], request.name, timing)
            launched = None
            on_launch(up)
            return reach(provider, up)
        except BaseException as error:
            # Also for Ctrl-C: whatever happened, no machine stays behind.
            looks = 1 if ids else 2 if isinstance(error, CapacityError) else timing.looks_after_doubt
            with ending():
                end_machine(
                    provider, request.name, ids, note=note, looks=looks, launched=launched, timing=timing
                )
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
    launched: float | None = None,
    timing: Timing = TIMING,
) -> None:
    """End a machine, and repeat it until the provider's own list no longer shows any machine of this name.

    Any failure is repeated, whatever its kind. A signal that `ending` knows of waits until the end.

    Args:
        provider: the client of its provider.
        name: of the machine.
        ids: IDs that are known already; the list may not show a new machine yet.
        note: called with a line about each failure that is repeated.
        looks: how often in a row the list must not show it: more than once if a launch may still be carried out.
        launched: when it was launched, by the clock of ``timing``; None if the provider has shown it as running.
        timing: how long to repeat it.

    Raises:
        ProviderError: it is still listed when the time is up, or a new machine was never listed and cannot be ended.
        KeyboardInterrupt: it has ended, and a signal came meanwhile.
    """
    note = _quiet(note)
    until = timing.clock() + timing.end_seconds
    unseen, shown = {id for id in ids if id}, set[str]()
    was_listed = False
    pause, missed, problem = 1.0, 0, ""
    with ending():
        while True:
            failed = _terminate_all(provider, unseen | shown)
            failure = next(iter(failed.values()), "")
            try:
                listed = [machine for machine in provider.list() if machine.name == name]
            except Exception as error:
                failure = _text(error)
            else:
                was_listed = was_listed or bool(listed)
                unseen -= {machine.id for machine in listed}
                shown = {machine.id for machine in listed if machine.state != "ending"}
                is_new = launched is not None and timing.clock() - launched < timing.new_seconds
                is_doubtful = bool(unseen & failed.keys())
                # The list may be late, and without the end of an ID that it never showed, it says nothing.
                missed = 0 if listed or (is_doubtful and is_new) else missed + 1
                needed = looks
                if is_doubtful or (is_new and not was_listed):
                    needed = max(looks, timing.looks_after_doubt)
                if missed >= needed:
                    return
                failure = failure or (f"{provider.name} still lists it" if listed else "")
            if failure and failure != problem:
                note(f"{name} is not ended yet ({failure}); retrying")
            problem = failure or problem
            if timing.clock() + pause > until:
                raise ProviderError(
                    f"{name} could NOT be ended ({problem or 'the list may be late'}), and IS STILL BILLED. Run "
                    f"`comic-upscale rent down {name}`, and check {provider.name}'s own console"
                )
            timing.wait(pause)
            pause = min(2 * pause, 30.0)


def _terminate_all(provider: Provider, ids: Iterable[str]) -> dict[str, str]:
    """Terminate machines, and return what failed, by their ID."""
    failed: dict[str, str] = {}
    for id in sorted(ids):
        try:
            provider.terminate(id)
        except Exception as error:
            failed[id] = _text(error)
    return failed


def _text(error: Exception) -> str:
    return str(error) if isinstance(error, RemoteError) else f"{type(error).__name__}: {error}"


def _quiet(note: Note) -> Note:
    """Return a note that never fails: a closed terminal must not keep a machine from its end."""

    def quiet(line: str) -> None:
        with contextlib.suppress(OSError, ValueError):
            note(line)

    return quiet
