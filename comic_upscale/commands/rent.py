"""The commands ``comic-upscale rent``: offers, rented machines, and their end."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Container, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from annotated_types import Ge, Gt

from comic_upscale.commands.cost import INPUT, JOB, CostOptions, count_work
from comic_upscale.commands.options import Given, takes
from comic_upscale.commands.questions import has_terminal
from comic_upscale.commands.rent_environment import UNUSED, open_known, open_providers, rent_records
from comic_upscale.commands.rented import (
    RENT,
    RentOptions,
    end_before_a_signal_does,
    find_offers,
    note,
    print_end,
    question_for,
    rent_machine,
)
from comic_upscale.commands.run import job_settings
from comic_upscale.commands.ssh_options import SshOptions
from comic_upscale.errors import ProviderError, SettingsError
from comic_upscale.provisioning.base import PREFIX, Provider, RentedMachine, end_of, is_ours
from comic_upscale.provisioning.registry import ANY, PROVIDERS, parse_target
from comic_upscale.settings.options import Opt, check, definitions, pick
from comic_upscale.settings.paths import quoted

if TYPE_CHECKING:
    from comic_upscale.costs.workload import Workload
    from comic_upscale.estimates.quotes import Question
    from comic_upscale.estimates.rental import RankedOffer
    from comic_upscale.provisioning.records import Records, RentalRecord

rent = typer.Typer(no_args_is_help=True, add_completion=False)

ASSUMED_PAGES = 10_000
MOST_ROWS = 15
LATEST = dt.timedelta(minutes=10)
"""After this time, a machine that was launched is listed, and one that should have ended has ended."""

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
_NOT_RENTED = ("backend", "engine_options", "device", "workers")
WORK = tuple(option for option in JOB if option.name not in _NOT_RENTED)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkOptions:
    """The job by which offers are ranked."""

    pages: Annotated[
        int | None, Ge(1),
        Opt("Number of pages, in place of an input.", metavar="N", default_text=f"{ASSUMED_PAGES:,}"),
    ] = None  # fmt: skip
    page_size: Annotated[str, Opt("Size of the pages, without an input.", metavar="WxH")] = "512x768"
    gpu: Annotated[
        tuple[str, ...], Opt("GPU to offer, such as 4090. May be repeated. Default: all.", metavar="NAME")
    ] = ()
    link_mbps: Annotated[float | None, Gt(0), Opt("Your connection in megabits per second.", metavar="N")] = (
        None
    )

    def __post_init__(self) -> None:
        """Check every value."""
        check(self)


@rent.command(
    epilog="Examples:\n\n"
    "  comic-upscale rent offers --input pages/\n\n"
    "  comic-upscale rent offers --pages 10000 --provider vast --gpu 4090",
)
@takes(source=INPUT, own=definitions(WorkOptions), renting=pick(RentOptions, "disk", "spot"), given=WORK)
def offers(
    provider: Annotated[
        list[str] | None,
        typer.Option(
            "--provider",
            metavar="NAME",
            help="Provider to ask. May be repeated. Default: all with a known key.",
        ),
    ] = None,
    everything: Annotated[
        bool, typer.Option("--verbose", "-v", help=f"Print all offers, not only the best {MOST_ROWS}.")
    ] = False,
    as_json: AsJson = False,
    *,
    source: Given,
    own: Given,
    renting: Given,
    given: Given,
) -> None:
    """Print the machines that are offered now, ranked by what your job costs there. Nothing is rented."""
    work, question = _count_job(source, own, given)
    for name in provider or ():
        if name not in PROVIDERS:
            raise SettingsError(f"--provider must be one of {', '.join(PROVIDERS)}, not {name!r}")
    providers = [each for name in provider or [ANY] for each in open_providers(name)]
    try:
        ranked = find_offers(
            providers, WorkOptions(**own.values()).gpu, RentOptions(**renting.values()), work, question
        )
    finally:
        _close(providers)
    if as_json:
        entries = [
            {"offer": asdict(each.offer), "quote": each.quote and asdict(each.quote)} for each in ranked
        ]
        typer.echo(json.dumps({"work": asdict(work), "offers": entries}))
        return
    for line in _offer_lines(ranked, work, None if everything else MOST_ROWS):
        typer.echo(line)


def _count_job(source: Given, own: Given, given: Given) -> tuple[Workload, Question]:
    """Count the work of the input, or of imagined pages, and return it with the parameters of the estimates."""
    asked = WorkOptions(**own.values())
    values: dict[str, Any] = {**source.values(), **given.values()}
    if values.get("input") is not None and asked.pages is not None:
        raise SettingsError("give either --input, or --pages N for a number of pages")
    imagined = None if values.get("input") is not None else asked.pages or ASSUMED_PAGES
    settings = job_settings({"input": Path("pages"), **values})
    counted = CostOptions(pages=imagined, page_size=asked.page_size, as_json=True)
    work, *_ = count_work(settings, counted)
    return work, question_for(settings.model, settings.denoise, settings.precision, asked.link_mbps)


def _offer_lines(ranked: Sequence[RankedOffer], work: Workload, most: int | None) -> list[str]:
    from comic_upscale.console.printable import printable
    from comic_upscale.console.quote_text import span, workload_lines
    from comic_upscale.console.text import duration, money

    if not ranked:
        return ["no machine is offered that fits"]
    lines = [
        *workload_lines(work, 0),
        "",
        f"{'GPU':14} {'$/hour':>7} {'time':>9} {'cost':>7} {'from .. to':>15}  offer",
    ]
    for each in ranked[:most]:
        offer, quote = each.offer, each.quote
        time, cost, around = "-", "-", "-"
        if quote is not None and quote.dollars is not None:
            time, cost = duration(quote.seconds.likely), money(quote.dollars.likely)
            around = span(quote.dollars, money)
        lines.append(f"{offer.gpu:14.14} {offer.hour:>7.2f} {time:>9} {cost:>7} {around:>15}  {offer.label}")
    if most is not None and len(ranked) > most:
        lines.append(f"{len(ranked) - most:,} more: -v shows them")
    best = ranked[0].offer
    gpu = quoted(f"{best.provider}:{best.gpu}")
    spot = " --spot" if best.is_on_request else ""
    lines += [
        "",
        f"cheapest: comic-upscale remote upscale --rent {gpu}{spot} --input ...",
    ]
    return [printable(line) for line in lines]


@rent.command(
    epilog="Examples:\n\n"
    "  comic-upscale rent up vast:4090 --max-hours 3\n\n"
    "  comic-upscale rent up any --input pages/ --budget 5\n\n"
    "Then: comic-upscale remote upscale NAME --input pages/",
)
@takes(
    source=INPUT, own=definitions(WorkOptions), renting=RENT,
    ssh=pick(SshOptions, "remote_dir"), given=WORK,
)  # fmt: skip
def up(
    target: Annotated[
        str, typer.Argument(metavar="PROVIDER[:GPU]", help="vast, runpod, lambda, aws, sky or any, such as vast:4090.")
    ],
    *,
    source: Given,
    own: Given,
    renting: Given,
    ssh: Given,
    given: Given,
) -> None:  # fmt: skip
    """Rent a machine, wait until it can be used, and keep it. It ends itself after --max-hours, or when it is idle."""
    name, gpu = parse_target(target)
    options, wanted = RentOptions(**renting.values()), list(WorkOptions(**own.values()).gpu)
    work, question = _count_job(source, own, given)
    providers = open_providers(name)
    try:
        ranked = find_offers(providers, [gpu] if gpu else wanted, options, work, question)
        with rent_machine(providers, ranked, options, ssh.values(), keep=True) as rental:
            config = rental.records.ssh_config(rental.name)
        typer.echo(rental.name)
        note(f"use it:   comic-upscale remote upscale {rental.name} --input ...")
        note(f"log in:   ssh -F '{config}' {rental.name}")
        note(f"end it:   comic-upscale rent down {rental.name}")
    finally:
        _close(providers)


@rent.command("list")
def list_machines(as_json: AsJson = False) -> None:
    """List your rented machines as their providers list them, with their cost so far."""
    records = rent_records()
    machines, unasked = _listed()
    now = dt.datetime.now(dt.UTC)
    listed = {machine.name for machine in machines}
    for record in records.all():
        # The provider does not bill it any more: it ended itself, or was ended elsewhere.
        if record.name not in listed and record.provider not in unasked and _is_over(record, now):
            records.note_end(record.name)
    rows = [_row(machine, records.get(machine.name), now) for machine in machines]
    unknown = [record.name for record in records.all() if record.ended is None and record.provider in unasked]
    if not unknown:
        _require_an_answer(unasked)
    if as_json:
        typer.echo(json.dumps({"machines": rows, "unknown": unknown}))
        return
    for line in _machine_lines(rows):
        typer.echo(line)
    for name in unknown:
        note(f"note: {name} may still be rented, but its provider cannot be asked")


def _is_over(record: RentalRecord, now: dt.datetime) -> bool:
    """Return whether a machine that is not listed has ended, and does not only start in another process."""
    if record.ended is not None:
        return False
    ends = end_of(record.name)
    if ends is not None and ends + LATEST < now:
        return True
    try:
        launched = dt.datetime.fromisoformat(record.launched)
        return bool(record.id) and launched + LATEST < now
    except (ValueError, TypeError):
        return bool(record.id)


def _require_an_answer(unasked: dict[str, str]) -> None:
    """Raise an error if no provider has been asked: an empty list would be no news."""
    if len(unasked) < len(PROVIDERS):
        return
    _close(open_providers(ANY))
    raise ProviderError("no provider answers, so it is not known which machines are rented: try again later")


def _listed() -> tuple[list[RentedMachine], dict[str, str]]:
    """Return the machines of all providers that can be asked, and why the others cannot."""
    machines: list[RentedMachine] = []
    providers, unasked = open_known()
    for reason in unasked.values():
        if reason not in UNUSED and providers:
            note(f"error: {reason}")
    try:
        for provider in providers:
            try:
                machines += provider.list()
            except ProviderError as error:
                note(f"error: {error}")
                unasked[provider.name] = str(error)
    finally:
        _close(providers)
    return machines, unasked


def _row(machine: RentedMachine, record: RentalRecord | None, now: dt.datetime) -> dict[str, Any]:
    from comic_upscale.costs.spending import dollars

    hour = machine.hour if machine.hour is not None else None if record is None else record.hour
    cost = None if record is None else record.cost(now)
    if machine.started is not None and hour is not None:
        cost = dollars(max(0.0, (now - machine.started).total_seconds()), hour)
    return {
        "name": machine.name,
        "provider": machine.provider,
        "id": machine.id,
        "state": machine.state,
        "gpu": machine.gpu,
        "hour": hour,
        "cost": cost,
        "ends": None if machine.ends is None else machine.ends.isoformat(),
        "overdue": machine.ends is not None and machine.ends < now - dt.timedelta(minutes=15),
    }


def _machine_lines(rows: Sequence[dict[str, Any]]) -> list[str]:
    from comic_upscale.console.printable import printable
    from comic_upscale.console.text import money

    if not rows:
        return ["no machine is rented"]
    lines = [f"{'name':31} {'provider':8} {'GPU':14} {'state':8} {'$/hour':>7} {'so far':>7}  ends itself"]
    for row in rows:
        hour = "-" if row["hour"] is None else f"{row['hour']:.2f}"
        ends = (row["ends"] or "unknown")[:16].replace("T", " ") + (" UTC" if row["ends"] else "")
        late = ": OVERDUE, run `comic-upscale rent down`" if row["overdue"] else ""
        lines.append(
            f"{row['name']:31} {row['provider']:8} {row['gpu']:14.14} {row['state']:8} {hour:>7} "
            f"{money(row['cost']):>7}  {ends}{late}"
        )
    known = [row["cost"] for row in rows if row["cost"] is not None]
    lines.append(f"{len(rows):,} rented, {money(sum(known))} so far")
    return [printable(line) for line in lines]


@rent.command(epilog="Example: comic-upscale rent down --all")
def down(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME]...", help="Machines of `rent list`.")
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help=f"All machines whose name begins with {PREFIX}, in all accounts.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask. Only a terminal is asked, for --all.")] = False,
) -> None:  # fmt: skip
    """End machines, and repeat it until their provider no longer lists them."""
    if bool(names) == everything:
        raise SettingsError("name the machines to end, or give --all")
    for name in names or ():
        if not is_ours(name):
            raise SettingsError(
                f"{name!r} is not the name of a machine that `rent` made: `rent list` shows them"
            )
    machines, unasked = _listed()
    wanted = machines if everything else [machine for machine in machines if machine.name in (names or ())]
    if everything and wanted and not yes and has_terminal():
        typer.confirm(f"End {', '.join(machine.name for machine in wanted)}?", abort=True, err=True)
    records = rent_records()
    if not everything:
        wanted += _unlisted(set(names or ()) - {machine.name for machine in wanted}, records, unasked)
    with end_before_a_signal_does():
        failed = _end_all(wanted)
    gone = set(names or ()) - {machine.name for machine in wanted}
    for name in sorted(gone):
        record = records.get(name)
        if unasked and (record is None or record.provider in unasked):
            where = [record.provider] if record is not None else sorted(unasked)
            why = ", ".join(f"{each} cannot be asked ({unasked[each]})" for each in where)
            failed.append(ProviderError(f"{name} is not listed, but {why}"))
        else:
            print_end(records, name)
    if everything and unasked:
        rented = {record.provider for record in records.all() if record.ended is None} & unasked.keys()
        failed += [ProviderError(f"{name} cannot be asked ({unasked[name]})") for name in sorted(rented)]
    if everything and not wanted and not failed:
        _require_an_answer(unasked)
        typer.echo("no machine is rented")
    for failure in failed[1:]:
        note(f"error: {failure}")
    if failed:
        raise failed[0]


def _unlisted(names: set[str], records: Records, unasked: Container[str]) -> list[RentedMachine]:
    """Return machines that are not listed, but may be: no end of them was ever seen."""
    found = [record for name in sorted(names) if (record := records.get(name)) is not None]
    return [
        RentedMachine(provider=record.provider, id=record.id, name=record.name, state="starting")
        for record in found
        if record.ended is None and record.provider in PROVIDERS and record.provider not in unasked
    ]


def _end_all(machines: Sequence[RentedMachine]) -> list[ProviderError]:
    """End machines, and return the failures. One that cannot be ended does not keep the others."""
    from comic_upscale.provisioning.ending import ending
    from comic_upscale.provisioning.lifecycle import end_machine

    records, failed = rent_records(), list[ProviderError]()
    for name in sorted({machine.provider for machine in machines}):
        (provider,) = open_providers(name)
        ours = [machine for machine in machines if machine.provider == name]
        try:
            for machine in {each.name: each for each in ours}.values():
                ids = [each.id for each in ours if each.name == machine.name]
                try:
                    with ending():
                        end_machine(provider, machine.name, ids, note=note)
                        print_end(records, machine.name)
                except ProviderError as error:
                    failed.append(error)
        finally:
            provider.close()
    return failed


def _close(providers: Sequence[Provider]) -> None:
    for provider in providers:
        provider.close()
