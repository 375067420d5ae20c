"""Every failure ends with no machine left over, as the provider's own list shows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from comic_upscale.errors import ConnectionLostError, ProviderError, RemoteError
from comic_upscale.provisioning.base import Provider, RentedMachine
from comic_upscale.provisioning.ending import defer_interrupt, ending
from comic_upscale.provisioning.lifecycle import RentPlan, end_machine, rent
from tests.provisioning.clouds import Cloud
from tests.provisioning.conftest import CLIENTS, Clock
from tests.provisioning.test_providers import PUBLIC

pytestmark = pytest.mark.parametrize("cloud", [*CLIENTS, "sky"], indirect=True)


class Renter:
    """Rents at one provider, and notes what happens."""

    def __init__(self, provider: Provider, clock: Clock) -> None:
        self.provider, self.clock = provider, clock
        self.notes: list[str] = []
        self.seen: list[RentedMachine] = []
        self.ended: list[str] = []
        self.refused = 0
        """How many machines cannot be reached."""

    def reach(self, provider: Provider, machine: RentedMachine) -> RentedMachine:
        if self.refused:
            self.refused -= 1
            raise ConnectionLostError("it does not answer")
        return machine

    def rent(self, attempts: int = 3) -> RentedMachine:
        offers = [(self.provider, offer) for offer in self.provider.offers(None, 40)]
        plan = RentPlan(
            offers=offers, public_key=PUBLIC, disk_gb=40, max_hours=lambda _: 2.0, attempts=attempts
        )
        return rent(
            plan, self.reach, self.seen.append, self.ended.append, self.notes.append, self.clock.timing()
        )

    def end(self, name: str, looks: int = 1) -> None:
        end_machine(self.provider, name, note=self.notes.append, looks=looks, timing=self.clock.timing())


@pytest.fixture
def renter(provider: Provider, clock: Clock) -> Renter:
    return Renter(provider, clock)


def test_a_machine_is_rented_and_ended(renter: Renter, cloud: Cloud) -> None:
    machine = renter.rent()
    assert [each.name for each in cloud.machines.values()] == [machine.name]
    assert renter.seen[0].id == "", "it is noted before the launch"
    renter.end(machine.name)
    assert cloud.machines == {}


def test_the_next_offer_is_tried_where_one_is_gone(renter: Renter, cloud: Cloud) -> None:
    cloud.fault("launch", "capacity", times=2)
    renter.rent()
    assert (cloud.launched, len(cloud.machines)) == (1, 1)
    assert len(renter.ended) == 2


@pytest.mark.parametrize("fault", ["created-503", "created-half", "created-cut"])
@pytest.mark.parametrize("hidden", [0, 3])
def test_a_launch_that_fails_and_yet_creates_a_machine(
    renter: Renter, cloud: Cloud, fault: str, hidden: int
) -> None:
    """It is found by its name, also if the list shows it late. There is never a second one."""
    cloud.hidden_looks = hidden
    cloud.fault("launch", fault)
    machine = renter.rent()
    assert (cloud.launched, [each.name for each in cloud.machines.values()]) == (1, [machine.name])


@pytest.mark.parametrize("fault", ["503", "not-json"])
def test_a_launch_that_fails_without_a_machine(renter: Renter, cloud: Cloud, fault: str) -> None:
    cloud.fault("launch", fault)
    renter.rent()
    assert (cloud.launched, len(cloud.machines)) == (1, 1)
    assert cloud.count("list") >= 2, "the list is read before the second launch"


def test_a_machine_that_never_comes_up_is_ended(
    renter: Renter, cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    cloud.boots_after = None
    timing = replace(renter.clock.timing(), look_seconds=300)
    monkeypatch.setattr(renter.clock, "timing", lambda: timing)
    with pytest.raises(ProviderError, match="did not start within"):
        renter.rent(attempts=2)
    assert (cloud.launched, cloud.machines) == (2, {})
    assert len(renter.ended) == 2


def test_a_machine_that_cannot_be_reached_is_ended_before_the_next(renter: Renter, cloud: Cloud) -> None:
    renter.refused = 1
    machine = renter.rent()
    assert (cloud.launched, [each.name for each in cloud.machines.values()]) == (2, [machine.name])
    renter.refused = 9
    with pytest.raises(RemoteError, match="does not answer"):
        renter.rent(attempts=2)
    assert [each.name for each in cloud.machines.values()] == [machine.name]


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_an_interrupt_at_any_time_leaves_no_machine(
    renter: Renter, cloud: Cloud, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    def interrupt(*_: object) -> None:
        raise error

    def interrupt_once(seconds: float) -> None:
        if renter.clock.wait(seconds) or len(renter.clock.pauses) == 1:
            raise error

    # While it waits for the machine to come up ...
    timing = replace(renter.clock.timing(), wait=interrupt_once)
    cloud.boots_after = 9
    monkeypatch.setattr(renter.clock, "timing", lambda: timing)
    with pytest.raises(error):
        renter.rent()
    assert (cloud.launched, cloud.machines) == (1, {})
    monkeypatch.undo()
    # ... while it connects ...
    monkeypatch.setattr(renter, "reach", interrupt)
    with pytest.raises(error):
        renter.rent()
    assert (cloud.launched, cloud.machines) == (2, {})
    # ... and in the launch itself, after the provider has carried it out. The list shows the machine late.
    launch = renter.provider.launch

    def launch_and_interrupt(*arguments: object) -> str:
        launch(*arguments)  # type: ignore[arg-type]
        raise error

    monkeypatch.setattr(renter.provider, "launch", launch_and_interrupt)
    cloud.hidden_looks = 2
    with pytest.raises(error):
        renter.rent()
    assert (cloud.launched, cloud.machines) == (3, {})


@pytest.mark.parametrize("fault", ["503", "half", "429", "ignored", "403"])
def test_ending_is_repeated_until_the_list_no_longer_shows_it(
    renter: Renter, cloud: Cloud, fault: str
) -> None:
    name = renter.rent().name
    cloud.fault("terminate", fault, times=4)
    renter.end(name)
    assert cloud.machines == {}
    # A deletion whose answer was lost was carried out.
    assert cloud.faults == [] or fault == "half"


def test_ending_waits_for_a_list_that_cannot_be_read(renter: Renter, cloud: Cloud) -> None:
    name = renter.rent().name
    cloud.fault("list", "503", times=12)
    renter.end(name)
    assert cloud.machines == {}


def test_a_machine_that_cannot_be_ended_is_the_last_word(renter: Renter, cloud: Cloud) -> None:
    name = renter.rent().name
    cloud.fault("terminate", "ignored", times=500)
    with pytest.raises(ProviderError, match=f"IS STILL BILLED. Run `comic-upscale rent down {name}`"):
        renter.end(name)
    assert renter.clock.now >= 500, "it is tried for minutes"


def test_other_machines_are_left_alone(renter: Renter, cloud: Cloud) -> None:
    first, second = renter.rent(), renter.rent()
    renter.end(first.name)
    assert [each.name for each in cloud.machines.values()] == [second.name]


def after(method: Callable[..., Any], act: Callable[[], object]) -> Callable[..., Any]:
    """Return a method that does something each time before it goes on."""

    def acting(*arguments: object) -> Any:
        act()
        return method(*arguments)

    return acting


def test_a_signal_waits_for_the_end_of_a_machine_and_no_other_is_rented(
    renter: Renter, cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not defer_interrupt(), "without an end, it need not wait"
    renter.refused = 1
    monkeypatch.setattr(renter.provider, "terminate", after(renter.provider.terminate, defer_interrupt))
    with pytest.raises(KeyboardInterrupt):
        renter.rent()
    assert (cloud.launched, cloud.machines, len(renter.ended)) == (1, {}, 1)
    with ending():
        pass  # An interrupt is raised once.


@pytest.mark.parametrize(
    "error", [OSError(5, "the terminal is gone"), ValueError("closed file"), BrokenPipeError()]
)
def test_a_dead_terminal_does_not_keep_a_machine_from_its_end(
    renter: Renter, cloud: Cloud, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    name = renter.rent().name

    class Dead:
        def append(self, _: str) -> None:
            raise error

    monkeypatch.setattr(renter, "notes", Dead())
    cloud.fault("terminate", "403", times=2)
    renter.end(name)
    assert cloud.machines == {}
    renter.refused = 1
    renter.rent()
    assert len(cloud.machines) == 1


@pytest.mark.parametrize("method", ["terminate", "list"])
def test_an_unexpected_error_is_a_failure_to_repeat(
    renter: Renter, cloud: Cloud, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    name = renter.rent().name
    errors: list[Exception] = [OverflowError("too large"), KeyError("x"), RecursionError("deep")]

    def fail() -> None:
        if errors:
            raise errors.pop()

    monkeypatch.setattr(renter.provider, method, after(getattr(renter.provider, method), fail))
    renter.end(name)
    assert (cloud.machines, errors) == ({}, [])


def test_a_machine_that_the_list_shows_late_is_not_taken_for_ended(
    renter: Renter, cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its ID is known, but each request to end it fails, and the list does not show it."""
    cloud.boots_after = 9
    cloud.hidden_looks = 30
    cloud.fault("terminate", "403", times=8)

    def interrupt_once(seconds: float) -> None:
        if renter.clock.wait(seconds) or len(renter.clock.pauses) == 1:
            raise MemoryError

    timing = replace(renter.clock.timing(), wait=interrupt_once, new_seconds=300)
    monkeypatch.setattr(renter.clock, "timing", lambda: timing)
    with pytest.raises(MemoryError):
        renter.rent()
    assert (cloud.launched, cloud.machines) == (1, {})


def test_a_machine_that_its_provider_does_not_know_yet_is_ended_later(
    renter: Renter, cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the list nor a request to end it knows a new machine at once."""
    cloud.hidden_looks = 2
    cloud.fault("terminate", "ignored", times=2)
    monkeypatch.setattr(renter.provider, "find", after(renter.provider.find, lambda: 1 / 0))
    with pytest.raises(ZeroDivisionError):
        renter.rent()
    assert (cloud.launched, cloud.machines) == (1, {})


def test_an_old_id_that_cannot_be_ended_is_the_lists_to_judge(renter: Renter, cloud: Cloud) -> None:
    cloud.fault("terminate", "403", times=99)
    name = "comic-upscale-0a1b2c-2611271830"
    end_machine(renter.provider, name, ["7"], note=renter.notes.append, timing=renter.clock.timing())
    assert renter.clock.pauses == [1, 2, 4], "one look might be a late one"
