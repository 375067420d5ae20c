"""The page about renting: its commands run as they stand there, in their order, at a provider on this machine."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from comic_upscale.cli import app
from tests.conftest import LONG, REPOSITORY, draw
from tests.docs.markdown import blocks, command_lines
from tests.docs.test_examples import own_commands
from tests.execution.ssh.conftest import Box
from tests.execution.ssh.test_rented import cloud
from tests.provisioning.clouds import Cloud

__all__ = ["cloud"]

PAGE = REPOSITORY / "docs" / "renting.md"
NAME = "comic-upscale-4f7a2c-2611271830"
"""The machine of the examples."""


def commands() -> list[list[str]]:
    """The commands of the page, except those with SkyPilot, which `tests/provisioning/test_sky.py` runs."""
    lines = [line for block in blocks(PAGE) if block.language == "sh" for line in command_lines(block)]
    found = [words for line in lines for words in own_commands(line)]
    return [
        words
        for words in found
        if "--ssh-config" not in words and "sky" not in {word.partition(":")[0] for word in words}
    ]


@pytest.mark.parametrize("cloud", ["vast"], indirect=True)
def test_the_commands_of_the_page_rent_upscale_and_leave_no_machine(
    cloud: Cloud, box: Box, tmp_path: Path, tiny_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for number, folder in enumerate(("pages", "library", "volume-1", "volume-2")):
        draw(tmp_path / folder / "1.png", number)
    # What this machine needs of a provider's, and a network that is small.
    here = ["--remote-dir", str(box.base)]
    small = [
        *here,
        "--remote-python",
        sys.executable,
        "--model",
        str(tiny_weights),
        "--device",
        "cpu",
        "--poll",
        "0.3",
    ]
    more = {("remote", "upscale"): small, ("rent", "up"): here}
    name, launched, upscaled = NAME, 0, 0
    for words in commands():
        asked = [name if word == NAME else word for word in words] + more.get((words[0], words[1]), [])
        is_upscale = words[:2] == ["remote", "upscale"]
        if is_upscale and upscaled and not LONG:
            # One machine is enough for the others to be seen to begin.
            asked.append("--dry-run")
        elif is_upscale:
            upscaled += 1
            launched += (
                int(words[words.index("--machines") + 1]) if "--machines" in words else "--rent" in words
            )
        result = CliRunner().invoke(app, asked)
        assert result.exit_code == 0, f"{shlex.join(words)}\n{result.output}\n{result.exception!r}"
        if words[:2] == ["rent", "up"]:
            name = result.stdout.strip()
        assert len(cloud.machines) == (words[1] != "down" and name != NAME), words
    assert cloud.launched == launched + 1
    outputs = {path.parent.name for path in tmp_path.glob("*-x*/1.png")}
    assert len(outputs) == (4 if LONG else 1), outputs
