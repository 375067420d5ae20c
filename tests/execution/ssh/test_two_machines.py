"""`remote upscale` on two machines: both are real SSH servers, each with a home of its own."""

from __future__ import annotations

import contextlib
import sqlite3
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from comic_upscale.commands.rent_environment import rent_records
from comic_upscale.commands.rented import Rental, RentedUpscale, RentOptions
from comic_upscale.errors import ProviderError
from comic_upscale.execution import several
from tests.conftest import draw
from tests.execution.ssh.conftest import Box, Invoke, switched_on
from tests.execution.ssh.test_rented import asked as asked_of_rented
from tests.execution.ssh.test_rented import cloud
from tests.execution.ssh.test_whole_way import local_run, outputs, wait_for
from tests.provisioning.clouds import Cloud

__all__ = ["asked_of_rented", "cloud"]

PAGES = 8


@pytest.fixture
def boxes(tmp_path: Path, shared_base: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Box]]:
    """Two machines, and an SSH configuration with both."""
    monkeypatch.setattr(several, "FIRST_PAGES", 4)
    monkeypatch.setattr(several, "SHARE_SECONDS", 0.0)
    with contextlib.ExitStack() as stack:
        found = {}
        for name in ("one", "two"):
            # A command finds its home there, so both may have a folder of one name.
            home = tmp_path / f"home of {name}"
            line = f'ForceCommand cd "{home}" && HOME="{home}" sh -c "$SSH_ORIGINAL_COMMAND"'
            found[name] = stack.enter_context(
                switched_on(tmp_path / f"ssh-{name}", home / "comic-upscale", shared_base, line)
            )
        both = "".join(
            (box.folder / "ssh_config").read_text().replace("Host box", f"Host {name}")
            for name, box in found.items()
        )
        (tmp_path / "both").write_text(both)
        yield found


@pytest.fixture
def asked(tmp_path: Path, tiny_weights: Path) -> list[object]:
    for number in range(PAGES):
        draw(tmp_path / "pages" / f"{number:02}.png", number)
    return [
        "one", "--also", "two", "--ssh-config", tmp_path / "both", "--remote-python", sys.executable, "--poll", 0.2,
        "--input", tmp_path / "pages", "--output", tmp_path / "out", "--model", tiny_weights, "--device", "cpu",
        "--scale", 2.5, "--patience", 1,
    ]  # fmt: skip


def made_by(box: Box) -> int:
    return len(list((box.base / "jobs").glob("*/output/*.png")))


def test_two_machines_share_a_job_and_one_does_the_rest_when_the_other_is_lost(
    boxes: dict[str, Box], remote: Invoke, asked: list[object], tmp_path: Path, tiny_weights: Path
) -> None:
    def switch_off() -> None:
        wait_for(lambda: made_by(boxes["one"]) >= 1)
        boxes["one"].stop()

    lost = threading.Thread(target=switch_off)
    lost.start()
    code, out, err = remote("upscale", *asked)
    lost.join()
    assert code == 0, err
    assert "one takes no more pages" in out + err
    assert min(made_by(box) for box in boxes.values()) >= 1
    assert outputs(tmp_path / "out") == local_run(tmp_path / "pages", tmp_path / "local", tiny_weights)
    ledger = sqlite3.connect(tmp_path / "out" / ".comic-upscale" / "ledger.sqlite3")
    try:
        assert ledger.execute("select state, attempts, count(*) from pages").fetchall() == [
            ("done", 1, PAGES)
        ]
    finally:
        ledger.close()
    # A machine that is off when the command begins is left out, too.
    code, _, err = remote("upscale", *asked)
    assert (code, "continuing without a machine" in err) == (0, True), err


def test_a_machine_that_is_named_twice_is_refused(
    remote: Invoke, asked: list[object], tmp_path: Path
) -> None:
    (tmp_path / "both").write_text("Host one two\n  HostName 127.0.0.1\n  Port 9\n")
    code, _, err = remote("upscale", *asked)
    assert (code, "two and one are the same machine" in err) == (2, True), err
    code, _, err = remote("upscale", *asked, "--machines", 2)
    assert (code, "--rent" in err) == (2, True), err


def test_a_machine_under_two_names_is_left_out(
    box: Box, remote: Invoke, asked: list[object], tmp_path: Path
) -> None:
    """Its names do not show it: another host name, or a folder that both see."""
    one = (box.folder / "ssh_config").read_text()
    two = one.replace("Host box", "Host two").replace("127.0.0.1", "localhost")
    (tmp_path / "both").write_text(one.replace("Host box", "Host one") + two)
    code, out, err = remote("upscale", *asked, "--remote-dir", box.base, "--accept-new-host-key")
    assert (code, "shares the folder" in out + err) == (0, True), err
    assert len(list((tmp_path / "out").glob("*.png"))) == PAGES


def test_several_machines_are_rented_for_a_job_and_all_are_ended(
    cloud: Cloud,
    asked_of_rented: list[str],
    tmp_path: Path,
    box: Box,
) -> None:
    used: list[tuple[list[str], float, int]] = []

    def use(rentals: Sequence[Rental], values: dict[str, Any]) -> None:
        used.append(([rental.name for rental in rentals], values["price"], len(cloud.machines)))

    ssh = {"remote_dir": str(box.base), "remote_python": sys.executable}
    values = {"input": tmp_path / "pages", "output": tmp_path / "out"}
    RentedUpscale("runpod:4090", RentOptions(), ssh, 3).run(values, use)
    (names, price, billed) = used.pop()
    hours = [record.hour or 0.0 for record in rent_records().all()]
    assert (len(set(names)), billed) == (3, 3)
    assert price == pytest.approx(sum(hours))
    assert (len(hours), cloud.machines) == (3, {})
    # None has the whole budget.
    RentedUpscale("runpod:4090", RentOptions(budget=60, max_hours=720), ssh, 3).run(values, use)
    assert used.pop()[2] == 3


def test_a_machine_that_is_not_to_be_had_is_done_without(
    cloud: Cloud,
    asked_of_rented: list[str],
    tmp_path: Path,
    box: Box,
    capsys: pytest.CaptureFixture[str],
) -> None:
    used: list[int] = []
    real = cloud.launch

    def launch(name: str, offer: str, request: dict[str, object]) -> str:
        # After the first machine, everything is gone.
        cloud.fault("launch", "capacity", times=9)
        return real(name, offer, request)

    cloud.launch = launch  # type: ignore[method-assign]
    ssh = {"remote_dir": str(box.base), "remote_python": sys.executable}
    values = {"input": tmp_path / "pages", "output": tmp_path / "out"}
    RentedUpscale("runpod:4090", RentOptions(), ssh, 3).run(
        values, lambda rentals, priced: used.append(len(rentals))
    )
    assert (used, cloud.machines) == ([1], {})
    assert "continuing with 1 of 3 machines" in capsys.readouterr().err
    # Without the first one there is nothing to go on with.
    cloud.faults.clear()
    with pytest.raises(ProviderError, match="no machine is offered"):
        RentedUpscale("runpod:nonesuch", RentOptions(), ssh, 3).run(values, lambda rentals, priced: None)
