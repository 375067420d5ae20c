"""`comic-upscale server`: keys, users, backup; each act is audited, and mistakes are told in one line."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
import sqlalchemy as sa

from comic_upscale.commands.server_care import opened_database
from comic_upscale.server import accounts
from comic_upscale.server.database.schema import audit
from comic_upscale.server.services import Services, open_services
from comic_upscale.server.settings import ServerSettings
from tests.server.conftest import OpenServices, client_of
from tests.server.running import invoke_here
from tests.server.test_access import OTHER, log_in
from tests.server.test_uploads import send


def run(home: Path, *words: object, code: int = 0) -> str:
    """Run `comic-upscale server` in this process, and return what it said."""
    ended = invoke_here(home, "server", *words)
    assert ended.exit_code == code, ended.output
    return ended.stdout.strip() if code == 0 else ended.stderr


def actions(services: Services) -> list[str]:
    return list(services.database.read(lambda c: c.scalars(sa.select(audit.c.action).order_by(audit.c.id))))


def test_keys_and_users_from_the_command_line(open_server: OpenServices, tmp_path: Path) -> None:
    services = open_server()
    data = ("--data", services.settings.data)
    key = run(tmp_path, "key", "create", *data, "--name", "laptop")
    with client_of(services, key) as client:
        assert client.get("/api/v1/jobs").status_code == 200
        assert client.get("/api/v1/admin/users").status_code == 403
        assert "_".join(key.split("_")[:2]) in run(tmp_path, "key", "list", *data)
        assert "not an administrator" in run(
            tmp_path, "key", "create", *data, "--name", "x", "--user", "laptop", "--admin", code=2
        )
        run(tmp_path, "key", "revoke", *data, key)
        # Another process revoked it: this one looks the key up again within a second.
        deadline = time.monotonic() + 30
        while client.get("/api/v1/jobs").status_code == 200:
            assert time.monotonic() < deadline
    assert "no valid key" in run(tmp_path, "key", "revoke", *data, "cu_none", code=3)
    password = run(tmp_path, "user", "create", *data, "--name", "ann", "--admin")
    with client_of(services) as client:
        assert log_in(client, "ann", password).json()["must_change_password"] is True
        answer = client.post(
            "/api/v1/auth/password", json={"current_password": password, "new_password": OTHER}
        )
        client.headers["X-CSRF-Token"] = answer.json()["csrf_token"]
        assert client.get("/api/v1/admin/users").status_code == 200
        again = run(tmp_path, "user", "reset-password", *data, "--name", "ann")
        assert client.get("/api/v1/jobs").status_code == 401
        assert log_in(client, "ann", OTHER).status_code == 401
        assert log_in(client, "ann", again).status_code == 200
    assert "no user nobody" in run(tmp_path, "user", "reset-password", *data, "--name", "nobody", code=3)
    expected = ["user.create", "key.create", "key.revoke", "user.create", "login", "password.change"]
    assert [each for each in actions(services) if each != "login.failed"][:6] == expected


def test_a_backup_is_consistent_and_can_be_used(open_server: OpenServices, tmp_path: Path) -> None:
    services = open_server()
    key = run(tmp_path, "key", "create", "--data", services.settings.data, "--name", "me")
    with client_of(services, key) as client:
        job = send(client).json()["job_id"]
    (tmp_path / "restored").mkdir()
    target = tmp_path / "restored" / "server.sqlite3"
    run(tmp_path, "backup", "--data", services.settings.data, "--output", target)
    assert "exists already" in run(
        tmp_path, "backup", "--data", services.settings.data, "--output", target, code=7
    )
    with sqlite3.connect(target) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()
    restored = open_services(ServerSettings(data=tmp_path / "restored"))
    try:
        with client_of(restored, key) as client:
            assert client.get(f"/api/v1/jobs/{job}").json()["status"] == "queued"
    finally:
        restored.close()


@pytest.mark.parametrize(
    "words",
    [
        ("backup", "--output", "saved.sqlite3"),
        ("key", "list"),
        ("key", "revoke", "cu_1"),
        ("user", "reset-password", "--name", "ann"),
    ],
)
def test_what_needs_a_database_creates_none(
    tmp_path: Path, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    said = run(tmp_path, *words, "--data", tmp_path / "mistyped", code=2)
    assert f"there is no database of a server at {tmp_path / 'mistyped'}" in said
    assert list(tmp_path.iterdir()) == []


def test_a_key_says_whose_it_is_and_a_mistyped_owner_is_refused(
    open_server: OpenServices, tmp_path: Path
) -> None:
    services = open_server()
    create = ("server", "key", "create", "--data", services.settings.data, "--name", "laptop")
    assert "there is no user nobody" in run(tmp_path, *create[1:], "--user", "nobody", code=3)
    assert services.database.read(lambda c: accounts.find_user(c, "nobody")) is None
    said = invoke_here(tmp_path, *create).stderr
    assert (
        "Created the user laptop without a password: the key and the jobs sent with it belong to this user."
        in said
    )
    assert "The key and the jobs sent with it belong to laptop." in invoke_here(tmp_path, *create).stderr
    assert actions(services) == ["user.create", "key.create", "key.create"]
    # A mistyped folder is no new server either.
    run(tmp_path, "key", "create", "--data", tmp_path / "no", "--name", "x", "--user", "ann", code=2)
    assert not (tmp_path / "no").exists()


def test_the_address_of_a_database_has_no_password(tmp_path: Path) -> None:
    url = "postgresql://comics:geheim@db:5433/comics?password=geheim"
    address = ServerSettings(data=tmp_path, database=url).database_address
    assert address == "postgresql://comics:***@db:5433/comics"


def test_a_command_names_the_database_that_it_uses(tmp_path: Path) -> None:
    words = ("server", "key", "create", "--data", tmp_path / "data", "--name", "laptop")
    first, second = (invoke_here(tmp_path, *words) for _ in range(2))
    place = f"Database: {tmp_path / 'data' / 'server.sqlite3'}"
    assert [ended.stderr.splitlines()[0] for ended in (first, second)] == [f"{place} (new)", place]
    # The key alone, for scripts.
    assert first.stdout.startswith("cu_") and len(first.stdout.split()) == 1


def test_a_new_database_is_called_new_once(
    settings: ServerSettings, capsys: pytest.CaptureFixture[str]
) -> None:
    """On each kind: one of PostgreSQL exists before the first command."""
    for end in (" (new)", ""):
        with opened_database(settings, may_create=True):
            assert capsys.readouterr().err == f"Database: {settings.database_address}{end}\n"


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_the_data_is_private(open_server: OpenServices) -> None:
    services = open_server()
    assert services.settings.data.stat().st_mode & 0o077 == 0
    assert (services.settings.data / "secret.key").stat().st_mode & 0o077 == 0


def test_the_server_process_opens_no_image_and_no_archive() -> None:
    code = (
        "import sys, comic_upscale.server.run, comic_upscale.commands.serve;"
        "print([name for name in ('torch', 'PIL', 'libarchive', 'imagecodecs', 'pypdfium2', 'tifffile', 'spandrel')"
        " if name in sys.modules])"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_the_commands_cost_nothing_before_they_are_used() -> None:
    code = (
        "import sys, contextlib, io\n"
        "from comic_upscale.cli import app\n"
        "with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):\n"
        "    app(['--help'])\n"
        "print([name for name in ('fastapi', 'sqlalchemy', 'pydantic', 'uvicorn') if name in sys.modules])"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
