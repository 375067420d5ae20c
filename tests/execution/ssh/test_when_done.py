"""``--when-done`` ends the rent once, when nothing is left to do there; where it does not, the last line says so."""

from __future__ import annotations

from pathlib import Path

import pytest

from comic_upscale.commands.remote import SshOptions
from comic_upscale.execution.remote_host import PollResult
from tests.conftest import draw
from tests.execution.ssh.conftest import Invoke
from tests.execution.ssh.test_distrust import HostileWorkplace


class Rented(HostileWorkplace):
    """An honest machine, as the command line reaches it."""

    def connect(self) -> None:
        return None


class Dying(Rented):
    """One whose runs end without a page."""

    def poll(self) -> PollResult:
        return PollResult(False, None, ())


def upscale_at(
    machine: Rented,
    remote: Invoke,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    *more: object,
) -> tuple[int, str]:
    """``remote upscale`` of three pages there; returns the exit code and what it said at last."""
    monkeypatch.setattr(SshOptions, "machine", lambda *_, **__: machine)
    for number in range(3):
        draw(folder / "pages" / f"{number}.png", number)
    weights = folder / "any.safetensors"
    weights.write_bytes(b"weights")
    code, _, err = remote(
        "upscale", "box", "--poll", 0.1, "--input", folder / "pages", "--output", folder / "out", "--model", weights,
        "--scale", 2, "--when-done", command, *more,
    )  # fmt: skip
    return code, err.splitlines()[-1]


def test_a_page_that_cannot_be_read_does_not_keep_the_machine(
    remote: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pages").mkdir()
    (tmp_path / "pages" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    command = f"echo gone >>{tmp_path / 'log'}"
    code, last = upscale_at(Rented(), remote, tmp_path, monkeypatch, command)
    assert (code, (tmp_path / "log").read_text()) == (1, "gone\n")
    assert "1 failed" in last
    assert len(list((tmp_path / "out").glob("*.png"))) == 3


@pytest.mark.parametrize(
    ("machine", "options", "exit_code"),
    [
        (Dying, (), 9),
        (Rented, ("--price", 3600, "--max-cost", 0.001), 8),
        (Rented, ("--input", "not-there"), 3),
    ],
)
def test_a_command_that_was_not_run_is_the_last_word(
    machine: type[Rented],
    options: tuple[object, ...],
    exit_code: int,
    remote: Invoke,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    command = f"touch {tmp_path / 'gone'}"
    code, last = upscale_at(machine(), remote, tmp_path, monkeypatch, command, *options)
    assert (code, (tmp_path / "gone").exists()) == (exit_code, False)
    assert "--when-done was NOT run" in last
    assert "THE MACHINE IS STILL BILLED" in last


def test_a_command_that_fails_says_that_the_machine_is_still_there(
    remote: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, last = upscale_at(Rented(), remote, tmp_path, monkeypatch, "exit 7")
    assert (code, last) == (7, "--when-done failed with exit code 7: THE MACHINE IS STILL BILLED")
