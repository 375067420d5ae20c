"""A rented machine for as long as a command needs it: chosen, launched, reached, and ended in every way out."""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import typer
from annotated_types import Ge, Gt, Le, Unit

from comic_upscale.commands.rent_environment import open_known, open_providers, rent_records
from comic_upscale.commands.signals import ending_signals
from comic_upscale.commands.ssh_options import SshOptions
from comic_upscale.errors import (
    CapacityError,
    ComicUpscaleError,
    ProviderError,
    RemoteError,
    SettingsError,
    UncertainError,
)
from comic_upscale.provisioning.base import Provider, RentalOffer, RentedMachine
from comic_upscale.provisioning.ending import defer_interrupt, ending
from comic_upscale.provisioning.lifecycle import TIMING, RentPlan, Timing, end_machine, rent
from comic_upscale.settings.options import Opt, check, definitions

if TYPE_CHECKING:
    from types import FrameType

    from comic_upscale.costs.workload import Workload
    from comic_upscale.estimates.quotes import Question
    from comic_upscale.estimates.rental import RankedOffer
    from comic_upscale.provisioning.records import Records

SSH_SECONDS = 300.0
"""How long the SSH server of a machine that runs may take to let us in."""
PANEL = "Renting"


@dataclass(frozen=True, slots=True, kw_only=True)
class RentOptions:
    """What to rent, and when it ends."""

    max_hours: Annotated[
        float, Gt(0), Le(720),
        Opt("The machine ends itself after this time, whatever happens.", metavar="HOURS", panel=PANEL),
    ] = 8.0  # fmt: skip
    idle_minutes: Annotated[
        float, Ge(0),
        Opt("The machine ends itself after this time without work. 0: never.", metavar="MINUTES", panel=PANEL),
    ] = 30.0  # fmt: skip
    budget: Annotated[
        float | None, Ge(0), Unit("dollars"),
        Opt(
            "Dollars that all your rented machines together may cost, until they end themselves. A new machine gets "
            "fewer hours, or is not rented.",
            metavar="$", panel=PANEL,
        ),
    ] = None  # fmt: skip
    disk: Annotated[int, Ge(10), Le(10_000), Opt("Disk of the machine in GB.", metavar="GB", panel=PANEL)] = (
        60
    )
    image: Annotated[
        str | None,
        Opt(
            "Image of the container, or of the machine at lambda, aws and sky. Default: one with PyTorch.",
            metavar="IMAGE", panel=PANEL,
        ),
    ] = None  # fmt: skip
    spot: Annotated[
        bool,
        Opt(
            "Offer spot instances of sky as well, which may be taken away. aws offers its own in any case.",
            panel=PANEL,
        ),
    ] = False  # fmt: skip

    def __post_init__(self) -> None:
        """Check every value."""
        check(self)


RENT = definitions(RentOptions)


@dataclass(slots=True)
class Rental:
    """A machine that is rented now.

    Args:
        provider: the client of its provider.
        name: of the machine.
        hour: dollars an hour.
        ssh: how to reach it.
        records: of the user.
        timing: how long ending it may take.
        id: of the machine at its provider, which its list may not show yet.
    """

    provider: Provider
    name: str
    hour: float
    ssh: SshOptions
    records: Records
    timing: Timing = TIMING
    id: str = ""
    is_ended: bool = field(default=False, init=False)

    def end(self) -> None:
        """End the machine, unless that has been done, and print its cost.

        Raises:
            ProviderError: it could not be ended; the message says that it is still billed.
            KeyboardInterrupt: it has ended, and a signal came meanwhile.
        """
        if self.is_ended:
            return
        with ending():
            note(f"ending {self.name}")
            end_machine(self.provider, self.name, [self.id], note=note, timing=self.timing)
            self.is_ended = True
            print_end(self.records, self.name)


def note(line: str) -> None:
    """Print a line about a rented machine on standard error, where it does not mix with results.

    A terminal that is gone is no error: a machine must be ended without it.
    """
    from comic_upscale.console.printable import printable

    with contextlib.suppress(OSError, ValueError):
        typer.echo(printable(line), err=True)


def print_end(records: Records, name: str) -> None:
    """Record that a machine has ended, and print its cost."""
    from comic_upscale.console.text import about_money, duration

    record = records.note_end(name)
    if record is None or record.ended is None:
        note(f"{name} has ended")
        return
    now = dt.datetime.now(dt.UTC)
    cost = record.cost(now)
    try:
        seconds = (
            dt.datetime.fromisoformat(record.ended) - dt.datetime.fromisoformat(record.launched)
        ).total_seconds()
    except ValueError:
        seconds = 0.0
    note(f"{name} has ended: rented for {duration(max(0.0, seconds))}, {about_money(cost)} without traffic")


def find_offers(
    providers: Sequence[Provider],
    gpus: Sequence[str],
    options: RentOptions,
    workload: Workload,
    question: Question,
) -> list[RankedOffer]:
    """Return the offers of providers with the wanted GPUs, ranked by the cost of a job.

    A provider that cannot be asked is left out, with a note, if another one answers.

    Raises:
        ProviderError: no provider answers.
    """
    from comic_upscale.estimates.rental import is_gpu, rank_offers

    offers: list[RentalOffer] = []
    failures: list[ProviderError] = []
    for provider in providers:
        try:
            offers += provider.offers(gpus[0] if len(gpus) == 1 else None, options.disk)
        except ProviderError as error:
            failures.append(error)
    for failure in failures:
        if len(failures) == len(providers):
            raise failure
        note(f"note: {failure}")
    wanted = [
        offer
        for offer in offers
        if (options.spot or not offer.is_on_request) and (not gpus or any(is_gpu(offer, gpu) for gpu in gpus))
    ]
    return rank_offers(workload, wanted, question)


@contextlib.contextmanager
def rent_machine(
    providers: Sequence[Provider],
    ranked: Sequence[RankedOffer],
    options: RentOptions,
    ssh: dict[str, Any],
    *,
    keep: bool = False,
    among: int = 1,
    timing: Timing = TIMING,
) -> Iterator[Rental]:
    """Rent the first machine that works. It is ended when the block ends, in every way, unless it is kept.

    Args:
        providers: the clients of all providers in question. The budget counts all that are known.
        ranked: the offers, in the order in which to try them.
        options: of the user.
        ssh: options of `SshOptions` that the user gave.
        keep: whether the machine outlives a block that ends well.
        among: how many machines, including this one, share what is left of the budget.
        timing: how long each step may take.

    Raises:
        ProviderError: no offer works, or the machine could not be ended.
        Exit: a signal ended the block.
    """
    records = rent_records()
    _, public_key = records.key()
    by_name = {provider.name: provider for provider in providers}
    plan = RentPlan(
        offers=[(by_name[each.offer.provider], each.offer) for each in ranked],
        public_key=public_key,
        disk_gb=options.disk,
        max_hours=lambda offer: _hours(providers, records, options, offer, among),
        image=options.image,
    )

    def reach(provider: Provider, machine: RentedMachine) -> Rental:
        reached = _ssh_options(provider, machine, options, ssh)
        _set_switch(provider, machine, options, reached)
        record = records.get(machine.name)
        hour = record.hour if record is not None else machine.hour
        return Rental(provider, machine.name, hour or 0.0, reached, records, timing, machine.id)

    with end_before_a_signal_does():
        rental = rent(plan, reach, records.note_machine, lambda name: print_end(records, name), note, timing)
        try:
            ends = _end_text(rental.name)
            note(f"{rental.name} is ready; it ends itself {ends} at the latest")
            yield rental
        except BaseException as error:
            try:
                # The first error counts, also before a signal that comes during the end.
                with contextlib.suppress(KeyboardInterrupt):
                    _end_surely(rental)
            except ProviderError:
                # Print both errors: the first may be about a different machine that is still costing money.
                if isinstance(error, ComicUpscaleError):
                    note(str(error))
                raise
            raise
        if not keep:
            _end_surely(rental)


def _end_surely(rental: Rental) -> None:
    """End a machine, also if a signal comes just before its end begins."""
    try:
        rental.end()
    except KeyboardInterrupt:
        rental.end()
        raise


def _end_text(name: str) -> str:
    from comic_upscale.provisioning.base import end_of

    ends = end_of(name)
    return "in time" if ends is None else f"at {ends:%Y-%m-%d %H:%M} UTC"


def _hours(
    providers: Sequence[Provider], records: Records, options: RentOptions, offer: RentalOffer, among: int
) -> float:
    """Return the hours that the budget allows for each of several machines."""
    from comic_upscale.provisioning.budget import committed, hours_within

    if options.budget is None:
        return options.max_hours

    def hour_of(machine: RentedMachine) -> float | None:
        record = records.get(machine.name)
        return machine.hour if machine.hour is not None else None if record is None else record.hour

    others = committed(_all_machines(providers, records), hour_of, dt.datetime.now(dt.UTC))
    own = others + max(0.0, options.budget - others) / among
    return hours_within(own, others, offer.hour, options.max_hours)


def _all_machines(providers: Sequence[Provider], records: Records) -> list[RentedMachine]:
    """Return the machines of all known providers.

    Args:
        providers: those that are open already.
        records: of the user, which name the providers that must be asked.

    Raises:
        ProviderError: a provider does not answer.
        SettingsError: a machine may be rented at a provider that cannot be asked.
    """
    more, unasked = open_known(without=[provider.name for provider in providers])
    try:
        for record in records.all():
            if record.ended is None and record.provider in unasked:
                raise SettingsError(
                    f"--budget cannot be kept: {record.name} may still be rented, but {record.provider} cannot be "
                    f"asked ({unasked[record.provider]}). Mend that, or leave out --budget"
                )
        return [machine for provider in (*providers, *more) for machine in provider.list()]
    finally:
        for provider in more:
            provider.close()


def _ssh_options(
    provider: Provider, machine: RentedMachine, options: RentOptions, given: dict[str, Any]
) -> SshOptions:
    """Return how to reach a machine. Its host key is new to everybody, and is remembered for this machine alone."""
    own = {"accept_new_host_key": True, "patience": 300.0}
    python = provider.python if options.image is None else None
    return SshOptions(host=machine.name, **{"remote_python": python, **own, **given})


def _set_switch(provider: Provider, machine: RentedMachine, options: RentOptions, ssh: SshOptions) -> None:
    """Log in, and start the watchdog on the machine: a machine without its switch is not used.

    Raises:
        RemoteError: the machine does not let us in, or cannot run the watchdog.
    """
    from comic_upscale.commands.watchdog import read_watchdog
    from comic_upscale.provisioning.switch import start_watchdog, watchdog_options
    from comic_upscale.retries import RetryPolicy, with_retries

    note(f"waiting for the SSH server of {machine.name}")
    policy = RetryPolicy(seconds=SSH_SECONDS, longest_pause=10.0)
    # A login may be refused until the machine knows our key.
    connection = with_retries(lambda: ssh.connection().open(), policy, RemoteError)
    ends = machine.ends
    hours = options.max_hours
    if ends is not None:
        hours = max(0.01, (ends - dt.datetime.now(dt.UTC)).total_seconds() / 3600)
    watchdog = watchdog_options(
        hours_left=hours, idle_minutes=options.idle_minutes, folder=ssh.remote_dir, end_command=provider.end_command
    )  # fmt: skip
    try:
        connection.check(start_watchdog(ssh.remote_dir, watchdog), feed=[read_watchdog()])
    finally:
        connection.close()


_received: list[list[int]] = []
"""The signals received so far, for each open block of `end_before_a_signal_does`. Nested blocks share one list."""


@contextlib.contextmanager
def end_before_a_signal_does() -> Iterator[None]:
    """Inside the block, the first Ctrl-C or SIGTERM is an exception, so that the machine is ended on the way out.

    While a machine is being ended, the exception comes after the end. The second signal only says so. The third ends
    the process at once, and leaves the machine to its switch. Nested blocks, one for each machine, count together.

    Raises:
        Exit: with the exit code of the signal.
    """
    received = _received[-1] if _received else []
    _received.append(received)

    def handle(number: int, _: FrameType | None) -> None:
        received.append(number)
        if len(received) > 2:
            os._exit(128 + number)
        is_ending = defer_interrupt()
        if len(received) == 1 and not is_ending:
            raise KeyboardInterrupt
        more = "once more" if len(received) == 2 else "twice more"
        # A handler may interrupt a write to the same stream, which is an error.
        with contextlib.suppress(Exception):
            note(f"still ending the machine; {more} leaves it to its own switch")

    before = {number: signal.getsignal(number) for number in ending_signals()}
    for number in before:
        signal.signal(number, handle)
    try:
        yield
    except KeyboardInterrupt:
        if not received:
            raise
        raise typer.Exit(128 + received[0]) from None
    finally:
        _received.pop()
        for number, handler in before.items():
            signal.signal(number, handler)


def question_for(
    model: str, denoise: float | None, precision: str, link_mbps: float | None = None
) -> Question:
    """Return the parameters of the estimates that rank offers."""
    from comic_upscale.commands.cost import known_measurements
    from comic_upscale.estimates.quotes import Question

    return Question(
        model=model,
        denoise=denoise,
        precision=precision,
        link_mbps=link_mbps,
        measurements=known_measurements(),
    )


@dataclass(frozen=True, slots=True)
class RentedUpscale:
    """``remote upscale --rent``: machines for one job.

    Args:
        target: the provider, and perhaps the GPU.
        options: what to rent.
        ssh: the options of `SshOptions` that the user gave.
    """

    target: str
    options: RentOptions
    ssh: dict[str, Any]
    machines: int = 1
    """How many to rent, at least 1."""

    def run(self, values: dict[str, Any], use: Callable[[Sequence[Rental], dict[str, Any]], None]) -> None:
        """Rent machines for the pages of a job that are not done, use them, and end them.

        Args:
            values: settings of the job, by name.
            use: processes the job on the machines, with settings that include their total price.
        """
        from comic_upscale.commands.run import job_settings
        from comic_upscale.engines.registry import check_remote
        from comic_upscale.estimates.workload import count_workload
        from comic_upscale.planning.preview import preview
        from comic_upscale.provisioning.registry import parse_target

        name, gpu = parse_target(self.target)
        providers = open_providers(name)
        try:
            job = job_settings(values)
            # Before a machine is rented.
            check_remote(job)
            workload = count_workload(preview(job, here=False), job)
            ranked = find_offers(
                providers, [gpu] if gpu else [], self.options, workload,
                question_for(job.model, job.denoise, job.precision),
            )  # fmt: skip
            _print_choice(ranked, self.options)
            with contextlib.ExitStack() as ends:
                rentals = self._rent_all(ends, providers, ranked)
                use(rentals, {"price": sum(rental.hour for rental in rentals), **values})
        finally:
            for provider in providers:
                provider.close()

    def _rent_all(
        self, ends: contextlib.ExitStack, providers: Sequence[Provider], ranked: Sequence[RankedOffer]
    ) -> list[Rental]:
        """Rent the machines one after another, or fewer if there are no more.

        Raises:
            ProviderError: there is none, or one could not be ended.
        """
        rentals: list[Rental] = []
        while len(rentals) < self.machines:
            try:
                left = self.machines - len(rentals)
                machine = rent_machine(providers, ranked, self.options, self.ssh, among=left)
                rentals.append(ends.enter_context(machine))
            except RemoteError as error:
                # After any other error of a provider, a machine may be left.
                is_over = isinstance(error, CapacityError | UncertainError) or not isinstance(
                    error, ProviderError
                )
                if not rentals or not is_over:
                    raise
                note(f"note: continuing with {len(rentals)} of {self.machines} machines: {error}")
                break
        return rentals


def _print_choice(ranked: Sequence[RankedOffer], options: RentOptions) -> None:
    """Print the estimate for the cheapest offer, and warn if the job may take longer than the machine lives."""
    from comic_upscale.console.quote_text import span
    from comic_upscale.console.text import duration, money

    quote = next((each.quote for each in ranked[:1]), None)
    if quote is None or quote.dollars is None:
        return
    time, cost = duration(quote.seconds.likely), money(quote.dollars.likely)
    note(f"estimate: {quote.hardware} at {quote.seller}: {time}, {cost} ({span(quote.dollars, money)})")
    if quote.seconds.high > options.max_hours * 3600:
        note(
            f"note: the job may take up to {duration(quote.seconds.high)}, but the machine ends itself after "
            f"{options.max_hours:g} hours: --max-hours changes that. The same command continues the job"
        )
