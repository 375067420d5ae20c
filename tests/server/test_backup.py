"""Backups come back on both databases, nothing is replaced by accident, and the storage can be tried beforehand."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from comic_upscale.errors import StorageError
from comic_upscale.server.files import LocalFiles
from comic_upscale.server.services import open_services
from comic_upscale.server.settings import ServerSettings
from comic_upscale.server.storage_check import check_storage
from tests.server.buckets import missing, running_bucket
from tests.server.conftest import client_of, make_key
from tests.server.postgres import Cluster
from tests.server.running import clean_environment
from tests.server.test_commands import actions, run
from tests.server.test_uploads import send

Where = Callable[[str], tuple[ServerSettings, tuple[object, ...]]]


@pytest.fixture(params=["sqlite", "postgresql"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> Where:
    """Makes the settings of an empty server, and the options of commands for it."""
    if request.param == "postgresql" and not (shutil.which("pg_dump") and shutil.which("pg_restore")):
        pytest.skip("pg_dump and pg_restore are not installed: apt-get install postgresql-client")

    def make(name: str) -> tuple[ServerSettings, tuple[object, ...]]:
        data = tmp_path / name
        if request.param == "sqlite":
            return ServerSettings(data=data), ("--data", data)
        cluster: Cluster = request.getfixturevalue("postgres")
        url = cluster.new_database()
        return ServerSettings(data=data, database=url), ("--data", data, "--database", url)

    return make


def test_a_backup_is_made_while_a_server_runs_and_comes_back(where: Where, tmp_path: Path) -> None:
    (settings, options), (new, new_options) = where("first"), where("second")
    services = open_services(settings)
    with client_of(services, key := make_key(services, "me")) as client:
        job_id = send(client).json()["job_id"]
        saved = tmp_path / "backup"
        assert "is saved" in run(tmp_path, "backup", *options, "--output", saved)
        later = send(client).json()["job_id"]
    services.close()
    run(tmp_path, "restore", *new_options, "--input", saved)
    assert "--replace" in run(tmp_path, "restore", *new_options, "--input", saved, code=2)
    # Back to the state of the backup, on the server itself, too.
    run(tmp_path, "restore", *options, "--input", saved, "--replace")
    for each in (new, settings):
        restored = open_services(each)
        try:
            with client_of(restored, key) as client:
                assert client.get(f"/api/v1/jobs/{job_id}").json()["status"] == "queued"
                assert client.get(f"/api/v1/jobs/{later}").status_code == 404
                assert send(client).status_code == 202
            assert "database.restore" in actions(restored)
        finally:
            restored.close()


def test_a_database_that_is_in_use_is_not_replaced(where: Where, tmp_path: Path) -> None:
    settings, options = where("first")
    services = open_services(settings)
    try:
        key = make_key(services, "me")
        run(tmp_path, "backup", *options, "--output", tmp_path / "backup")
        assert "in use" in run(
            tmp_path, "restore", *options, "--input", tmp_path / "backup", "--replace", code=6
        )
        with client_of(services, key) as client:
            assert send(client).status_code == 202
    finally:
        services.close()


@pytest.mark.parametrize("content", [b"", b"not a backup", b"SQLite format 3\0", b"PGDMP"])
def test_a_file_that_is_no_backup_changes_nothing(where: Where, tmp_path: Path, content: bytes) -> None:
    settings, options = where("first")
    services = open_services(settings)
    key = make_key(services, "me")
    services.close()
    (tmp_path / "file").write_bytes(content)
    code = 6 if content == b"PGDMP" and settings.database else 3
    run(tmp_path, "restore", *options, "--input", tmp_path / "file", "--replace", code=code)
    services = open_services(settings)
    with client_of(services, key) as client:
        assert client.get("/api/v1/jobs").status_code == 200
    services.close()


def test_a_backup_that_is_missing_changes_nothing(where: Where, tmp_path: Path) -> None:
    settings, options = where("first")
    services = open_services(settings)
    key = make_key(services, "me")
    services.close()
    said = run(tmp_path, "restore", *options, "--input", tmp_path / "gone", "--replace", code=3)
    assert "cannot be read" in said
    services = open_services(settings)
    with client_of(services, key) as client:
        assert client.get("/api/v1/jobs").status_code == 200
    services.close()


def test_a_backup_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    settings = ServerSettings(data=tmp_path / "data")
    open_services(settings).close()
    run(tmp_path, "backup", "--data", settings.data, "--output", tmp_path / "backup")
    with closing(sqlite3.connect(tmp_path / "backup")) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    assert "newer version" in run(
        tmp_path, "restore", "--data", settings.data, "--input", tmp_path / "backup", "--replace", code=6
    )
    open_services(settings).close()


def test_the_former_database_is_kept(tmp_path: Path) -> None:
    settings = ServerSettings(data=tmp_path / "data")
    services = open_services(settings)
    run(tmp_path, "backup", "--data", settings.data, "--output", tmp_path / "backup")
    key = make_key(services, "later")
    services.close()
    said = run(tmp_path, "restore", "--data", settings.data, "--input", tmp_path / "backup", "--replace")
    former = settings.data / "server.sqlite3.before-restore"
    assert str(former) in said
    with closing(sqlite3.connect(former)) as connection:
        assert connection.execute("SELECT count(*) FROM keys").fetchone() == (1,)
    assert key.startswith("cu_")


def test_the_check_of_the_storage_says_what_is_missing(tmp_path: Path) -> None:
    said = run(tmp_path, "check-storage", "--data", tmp_path / "data")
    assert [line.endswith(": ok") for line in said.splitlines()] == [False] + [True] * 5
    assert list((tmp_path / "data" / "files").iterdir()) == []

    class Keeps(LocalFiles):
        def delete(self, key: str) -> None:
            """Refuse, as a bucket may."""

    class Hides(LocalFiles):
        def list(self):  # type: ignore[no-untyped-def]
            """Show nothing."""
            return iter(())

    for kind, step, right in ((Keeps, "delete", "s3:DeleteObject"), (Hides, "list", "s3:ListBucket")):
        steps: list[str] = []
        with pytest.raises(StorageError, match=f"does not let this server {step}.*{right}"):
            check_storage(kind(tmp_path / step), steps.append)
        assert step not in steps


def test_the_check_of_a_bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if reason := missing("rclone"):
        pytest.skip(reason)
    with running_bucket("rclone", tmp_path / "bucket") as bucket:
        for name, value in bucket.environment().items():
            monkeypatch.setenv(name, value)
        assert "AWS_ACCESS_KEY_ID" in clean_environment(tmp_path)
        said = run(tmp_path, "check-storage", "--data", tmp_path / "data")
        assert said.splitlines() == [
            "Storage: s3://comics", "write: ok", "write a large file: ok", "read: ok", "list: ok", "delete: ok",
        ]  # fmt: skip
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another secret than that")
        wrong = run(tmp_path, "check-storage", "--data", tmp_path / "data", code=7)
        assert "s3:PutObject" in wrong and "another secret" not in wrong
        monkeypatch.setenv("S3_BUCKET", "there-is-none")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", bucket.secret)
        assert "bucket does not exist" in run(tmp_path, "check-storage", "--data", tmp_path / "data", code=7)
