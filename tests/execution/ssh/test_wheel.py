"""The wheel for a remote machine contains the complete running package."""

from __future__ import annotations

import base64
import hashlib
import io
import zipfile
from pathlib import Path

import pytest

from comic_upscale.execution.ssh import wheel as wheel_module
from comic_upscale.execution.ssh.wheel import build_wheel
from comic_upscale.version import __version__


def test_the_wheel_holds_the_running_package_its_weights_and_the_watchdog() -> None:
    wheel = build_wheel()
    assert wheel.name == f"comic_upscale-{__version__}-py3-none-any.whl"
    assert wheel.sha256 == hashlib.sha256(wheel.data).hexdigest()
    assert build_wheel().data == wheel.data, "the same package gives the same bytes"
    with zipfile.ZipFile(io.BytesIO(wheel.data)) as archive:
        assert archive.testzip() is None
        files = {name: archive.read(name) for name in archive.namelist()}
    assert {
        "comic_upscale/cli.py",
        "comic_upscale/py.typed",
        "comic_upscale/execution/ssh/machine.py",
    } <= files.keys()
    assert "comic_upscale/weights/comic-compact-x3.safetensors" in files
    assert files["comic_upscale/scripts/idle_watchdog.sh"].startswith(b"#!/usr/bin/env bash")
    assert not [name for name in files if "__pycache__" in name or name.startswith(("/", ".."))]
    folder = f"comic_upscale-{__version__}.dist-info"
    assert f"Version: {__version__}".encode() in files[f"{folder}/METADATA"]
    record = files.pop(f"{folder}/RECORD").decode().splitlines()
    expected = {
        f"{name},sha256={base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip('=')},{len(data)}"
        for name, data in files.items()
    }
    assert set(record) == {*expected, f"{folder}/RECORD,,"}


@pytest.mark.parametrize("place", ["clone", "package"])
def test_a_watchdog_that_git_wrote_for_windows_is_sent_with_the_line_ends_of_linux(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "comic_upscale"
    script = (tmp_path if place == "clone" else package) / "scripts" / "idle_watchdog.sh"
    script.parent.mkdir(parents=True)
    script.write_bytes(b"#!/usr/bin/env bash\r\nset -eu\r\n")
    monkeypatch.setattr(wheel_module, "_PACKAGE", package)
    monkeypatch.setattr(wheel_module, "_SCRIPTS", tmp_path / "scripts")
    with zipfile.ZipFile(io.BytesIO(build_wheel().data)) as archive:
        assert archive.read("comic_upscale/scripts/idle_watchdog.sh") == b"#!/usr/bin/env bash\nset -eu\n"
