"""The budget over all rented machines: what those that exist can still cost, and the hours that it leaves."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable

from comic_upscale.costs.spending import dollars
from comic_upscale.errors import SettingsError
from comic_upscale.provisioning.base import RentedMachine

LEAST_HOURS = 0.25
"""A machine is not rented for less: installing and loading take minutes."""


def committed(
    machines: Iterable[RentedMachine], hour_of: Callable[[RentedMachine], float | None], now: dt.datetime
) -> float:
    """Return the dollars that machines cost from their launch until they end themselves.

    Args:
        machines: all that exist.
        hour_of: returns the dollars an hour of a machine; None if unknown.
        now: the time in UTC.

    Raises:
        SettingsError: the price or the end of a machine is unknown, so no budget can be kept.
    """
    total = 0.0
    for machine in machines:
        hour, ends = hour_of(machine), machine.ends
        if hour is None or ends is None:
            what = "price" if hour is None else "end"
            raise SettingsError(
                f"--budget cannot be kept, since the {what} of {machine.name} at {machine.provider} is unknown: end it "
                f"with `comic-upscale rent down {machine.name}`, or leave out --budget"
            )
        began = machine.started or now
        # One that is overdue is billed for longer than it should be.
        total += dollars(max(0.0, (max(ends, now) - began).total_seconds()), hour)
    return total


def hours_within(budget: float | None, others: float, hour: float, most: float) -> float:
    """Return the hours for which a machine may be rented.

    Args:
        budget: dollars over all machines; None without a budget.
        others: dollars of the machines that exist, as in `committed`.
        hour: dollars an hour of the new machine.
        most: hours at most.

    Raises:
        SettingsError: the budget leaves less than `LEAST_HOURS`.
    """
    if budget is None:
        return most
    left = max(0.0, budget - others)
    hours = min(most, left / hour) if hour else most
    if hours < min(LEAST_HOURS, most):
        raise SettingsError(
            f"--budget leaves ${left:.2f} for each new machine, and those that exist cost up to ${others:.2f}: that is "
            f"less than {LEAST_HOURS * 60:.0f} minutes at ${hour:.3g} per hour. `comic-upscale rent list` shows them"
        )
    return hours
