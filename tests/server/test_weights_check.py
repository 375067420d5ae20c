"""Weights that an administrator uploads: loaded by a child process as tensors alone, and refused in words."""

from __future__ import annotations

import json
import os
import pickle
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import httpx2 as httpx
import pytest
from typer.testing import CliRunner

from comic_upscale.cli import app
from comic_upscale.server.services import Services
from comic_upscale.server.weights_check import WeightsCheck
from tests.conftest import REPOSITORY
from tests.server.conftest import client_of, make_key
from tests.server.pages import pages_of, sign_in
from tests.server.test_access import add_person
from tests.server.test_pages import check_html

WEIGHTS = REPOSITORY / "weights" / "comic-compact-x3.safetensors"
REAL = [sys.executable, "-m", "comic_upscale", "models", "check", "--json"]


class Evil:
    """Runs code when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> object:
        return os.mkdir, (str(self.path),)


def checked_by(services: Services, *command: str, seconds: float = 120.0) -> Services:
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    folder = services.settings.data / "check"
    return replace(services, weights_check=WeightsCheck(command, kept, folder, seconds))


def register(services: Services, content: bytes, name: str = "mine", file: str = "net.pth") -> httpx.Response:
    with client_of(services, make_key(services, "boss", "admin")) as boss:
        return boss.post("/api/v1/admin/models", files={"file": (file, content)}, data={"name": name})


def test_a_file_that_would_run_code_is_refused_and_runs_none(services: Services, tmp_path: Path) -> None:
    path = tmp_path / "evil.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("evil/data.pkl", pickle.dumps({"params": Evil(tmp_path / "owned")}, 2))
        archive.writestr("evil/version", "3\n")
    answer = register(checked_by(services, *REAL), path.read_bytes())
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert error["field"] == "file" and error["message"].startswith("These weights cannot be used: ")
    assert str(services.settings.data) not in error["message"]
    assert not (tmp_path / "owned").exists()
    assert list(services.files.list()) == [] and list((services.settings.data / "check").iterdir()) == []
    assert "mine" not in services.live.offered.models


def test_a_network_is_registered_with_what_it_is(services: Services) -> None:
    script = (
        "import json, sys; path = sys.argv[1]; size = len(open(path, 'rb').read());"
        "print(json.dumps({'architecture': path.rpartition('.')[2], 'native_scale': size}))"
    )
    answer = register(checked_by(services, sys.executable, "-c", script), b"x" * 8 + b"{" + b"x" * 20)
    assert answer.status_code == 201, answer.text
    # The content decides how it is loaded, not the name.
    assert answer.json() | {"architecture": "safetensors", "native_scale": 29} == answer.json()


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("import time; time.sleep(60)", "took too long"),
        ("import os; os.abort()", "without a result"),
        ("print('{}')", "without a result"),
        (
            "import sys; sys.exit('error: ' + sys.argv[1] + ' is damaged')",
            "cannot be used: the file is damaged",
        ),
    ],
)
def test_a_check_that_fails_refuses_the_file(services: Services, script: str, message: str) -> None:
    seconds = 1.0 if "sleep" in script else 60.0
    answer = register(checked_by(services, sys.executable, "-c", script, seconds=seconds), b"weights" * 9)
    assert answer.status_code == 400 and message in answer.json()["error"]["message"], answer.text
    assert list(services.files.list()) == []


def test_a_bad_name_is_said_before_the_check(services: Services) -> None:
    broken = checked_by(services, "/no/such/program")
    answer = register(broken, b"weights", name="RealESRGAN_x4plus")
    assert answer.status_code == 400 and "already a model" in answer.json()["error"]["message"]


def test_the_command_says_what_weights_are(tmp_path: Path) -> None:
    found = CliRunner().invoke(app, ["models", "check", str(WEIGHTS), "--json"])
    assert found.exit_code == 0, found.output
    printed = json.loads(found.stdout)
    assert printed["native_scale"] == 3 and printed["architecture"] and len(printed["sha256"]) == 64
    (tmp_path / "no.safetensors").write_bytes(b"nothing")
    for name in ("no.safetensors", "missing.pth"):
        assert CliRunner().invoke(app, ["models", "check", str(tmp_path / name)]).exit_code != 0


def test_the_page_has_the_form_and_own_models_can_be_deleted(services: Services) -> None:
    add_person(services, "root", "admin")
    assert register(services, b"weights").status_code == 201
    with pages_of(services) as browser:
        page = sign_in(browser, "root").get("/admin/models").text
        check_html(page)
        assert 'id="weights-file"' in page and 'formaction="/admin/models/mine/delete"' in page
        token = page.partition('data-csrf="')[2][:64]
        assert browser.post("/admin/models/mine/delete", data={"csrf_token": token}).status_code == 303
        assert "/admin/models/mine/delete" not in browser.get("/admin/models").text
        assert list(services.files.list()) == []
