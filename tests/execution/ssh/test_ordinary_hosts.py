"""Machines as their users set them up: another login shell, and start-up files that print and change the folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import LONG, draw
from tests.execution.ssh.conftest import Box, Invoke
from tests.execution.ssh.test_whole_way import outputs, wait_for


@pytest.fixture(params=["bash", "fish", "tcsh"] if LONG else ["tcsh"])
def noisy(request: pytest.FixtureRequest, box: Box) -> Box:
    """The rented machine, with a login shell of this kind that prints something at each start."""
    box.use_noisy_login(request.param)
    return box


def test_a_noisy_login_changes_nothing(
    noisy: Box, remote: Invoke, tmp_path: Path, tiny_weights: Path
) -> None:
    for number in range(3):
        draw(tmp_path / "pages" / f"{number}.png", number)
    before = sorted(noisy.base.iterdir())
    code, out, err = remote("check", *noisy.options(), "--remote-python", noisy.step()[-3])
    assert (code, "ready" in out) == (0, True), out + err
    assert "welcome" not in out
    assert sorted(noisy.base.iterdir()) == before, "a check leaves nothing behind"
    code, out, err = remote(
        "upscale", *noisy.step(), "--poll", 0.3, "--input", tmp_path / "pages", "--model", tiny_weights,
        "--device", "cpu",
    )  # fmt: skip
    assert code == 0, out + err
    assert len(outputs(tmp_path / "pages-x2.5")) == 3
    wait_for(lambda: not noisy.runs())
    code, out, err = remote("status", *noisy.options())
    assert (code, "3 of 3 done" in out) == (0, True), out + err
    code, out, err = remote("logs", *noisy.options(), "--lines", 2)
    assert (code, "welcome" in out) == (0, False), out + err
    code, out, err = remote("stop", *noisy.options())
    assert (code, "no run was active" in out) == (0, True), out + err


def test_a_check_finds_what_an_upscale_would(box: Box, remote: Invoke, tmp_path: Path) -> None:
    """A Python that changes what it reads: only the trial of a page in both directions can tell."""
    import sys

    python = tmp_path / "python"
    python.write_text(
        f'#!/bin/sh\ncase "$*" in *stdin.buffer*) echo oops; exit 1 ;; esac\nexec {sys.executable} "$@"\n'
    )
    python.chmod(0o755)
    code, out, err = remote("check", *box.options(), "--remote-python", python)
    assert code == 9, out + err
    assert "ready" not in out
    assert "does not meet the requirements" in err


def test_no_record_here_names_the_machine(
    box: Box, remote: Invoke, tmp_path: Path, tiny_weights: Path
) -> None:
    draw(tmp_path / "Secret Title" / "0.png", 0)
    config = box.folder / "ssh_config"
    config.write_text(config.read_text().replace("Host box", "Host box very-private-name.example"))
    host = ["very-private-name.example", *box.step()[1:]]
    asked = ["--input", tmp_path / "Secret Title", "--model", tiny_weights, "--device", "cpu"]
    secret = tmp_path / "when-done.sh"
    secret.write_text(f"echo sk-secret-key >{tmp_path / 'used'}\n")
    code, out, err = remote("upscale", *host, "--poll", 0.3, "--when-done", f"@{secret}", *asked)
    assert code == 0, out + err
    assert (tmp_path / "used").read_text() == "sk-secret-key\n"
    # Another run fails, and its reason is recorded too.
    (tmp_path / "Secret Title-x2.5" / "0.png").unlink()
    code, out, err = remote("upscale", *host, "--remote-dir", "/proc/nothing", "--patience", 0, *asked)
    assert code == 9, out + err
    assert "very-private-name" in err, "the user may know"
    marker = tmp_path / "Secret Title-x2.5" / ".comic-upscale"
    recorded = b"".join(path.read_bytes() for path in marker.rglob("*") if path.is_file())
    assert b"very-private-name" not in recorded
    assert b"127.0.0.1" not in recorded
    assert b"sk-secret-key" not in recorded
    assert b"the remote machine" in recorded
    # And nothing there is called like the user's folders.
    there = [
        path for path in box.base.rglob("*") if "Secret" in path.name and "environments" not in path.parts
    ]
    assert not there
    texts = [path.read_bytes() for path in box.job().rglob("*") if path.is_file()]
    assert not [text for text in texts if b"Secret" in text]
