"""The settings of a server: from options, from variables, from files; and the table in the documentation."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

from comic_upscale.commands.server_environment import worker_environment
from comic_upscale.errors import SettingsError
from comic_upscale.server.settings import ServerSettings
from comic_upscale.settings.environment import values_from_environment, variables_of
from comic_upscale.settings.options import definitions
from tests.conftest import REPOSITORY


def from_environment(**variables: str) -> ServerSettings:
    return ServerSettings(**{"data": Path("data"), **values_from_environment(ServerSettings, variables)})


def test_variables_of_the_known_names_are_read() -> None:
    settings = from_environment(
        DATABASE_URL="postgresql://me@host/db", MAX_UPLOAD_SIZE_BYTES="1000", RATE_LIMIT_PER_MINUTE="7",
        JOB_TIMEOUT_SECONDS="12.5", ML_WORKER_IDLE_TIMEOUT="9", ML_WORKER_BACKEND="cpu", ADMIN_SEED_USER="root",
        COMIC_UPSCALE_PUBLIC="yes", COMIC_UPSCALE_TRUSTED_PROXIES="10.0.0.1, 10.0.0.2",
    )  # fmt: skip
    assert settings.database_url == "postgresql+psycopg://me@host/db"
    assert (settings.max_upload_size, settings.rate_limit, settings.job_timeout) == (1000, 7, 12.5)
    assert (settings.worker_idle_timeout, settings.device, settings.admin_seed_user) == (9.0, "cpu", "root")
    assert settings.public and settings.trusted_proxies == ("10.0.0.1", "10.0.0.2")


def test_a_bucket_by_the_known_names(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("s3cret\n", encoding="utf-8")
    settings = from_environment(
        STORAGE_BACKEND="s3", S3_BUCKET="comics/pages", S3_ENDPOINT="http://minio:9000", S3_REGION="eu-1",
        AWS_ACCESS_KEY_ID="me", AWS_SECRET_ACCESS_KEY_FILE=str(tmp_path / "secret"),
    )  # fmt: skip
    assert (settings.storage_address, settings.has_shared_storage) == ("s3://comics/pages", True)
    assert (settings.s3_endpoint, settings.s3_region) == ("http://minio:9000", "eu-1")
    assert (settings.s3_access_key_id, settings.s3_secret_access_key) == ("me", "s3cret")
    local = from_environment(STORAGE_BACKEND="local", S3_BUCKET="comics")
    assert (local.storage_address, local.has_shared_storage) == (str(Path("data") / "files"), False)


def test_the_own_name_of_a_variable_counts_first_and_an_empty_one_not_at_all() -> None:
    assert from_environment(COMIC_UPSCALE_RATE_LIMIT="3", RATE_LIMIT_PER_MINUTE="7").rate_limit == 3
    assert from_environment(RATE_LIMIT_PER_MINUTE="").rate_limit == ServerSettings(data=Path("d")).rate_limit


def test_a_secret_may_be_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("a long enough secret\n", encoding="utf-8")
    assert from_environment(SECRET_KEY_FILE=str(tmp_path / "secret")).secret_key == "a long enough secret"
    with pytest.raises(SettingsError, match=r"SECRET_KEY_FILE: .* cannot be read"):
        from_environment(SECRET_KEY_FILE=str(tmp_path / "missing"))
    (tmp_path / "empty").write_text("\n", encoding="utf-8")
    with pytest.raises(SettingsError, match="is empty"):
        from_environment(SECRET_KEY_FILE=str(tmp_path / "empty"))


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"RATE_LIMIT_PER_MINUTE": "many"}, "RATE_LIMIT_PER_MINUTE must be a whole number, not 'many'"),
        ({"RATE_LIMIT_PER_MINUTE": "0"}, "RATE_LIMIT_PER_MINUTE must be between 1 and 1000000000, not '0'"),
        ({"COMIC_UPSCALE_PORT": "70000"}, "COMIC_UPSCALE_PORT must be"),
        ({"COMIC_UPSCALE_PUBLIC": "maybe"}, "COMIC_UPSCALE_PUBLIC must be true or false, not 'maybe'"),
        ({"COMIC_UPSCALE_ROLE": "boss"}, "COMIC_UPSCALE_ROLE must be one of all, server, worker"),
        ({"DATABASE_URL": "mysql://secret@host/db"}, "--database must be a URL such as"),
    ],
)
def test_a_wrong_value_is_refused_by_the_name_of_its_variable(
    variables: dict[str, str], message: str
) -> None:
    with pytest.raises(SettingsError, match=message):
        from_environment(**variables)


@pytest.mark.parametrize("name", ["SECRET_KEY", "API_KEY"])
def test_a_secret_that_is_too_short_is_refused_and_not_shown(name: str) -> None:
    with pytest.raises(SettingsError, match=f"{name} must have at least 16") as caught:
        from_environment(**{name: "hunter2"})
    assert "hunter2" not in str(caught.value)


def test_a_worker_gets_the_secrets_of_database_and_storage_and_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    secrets = [option for option in definitions(ServerSettings) if option.opt.secret]
    for option in secrets:
        for name in variables_of(option):
            monkeypatch.setenv(name, "a secret of the server")
            monkeypatch.setenv(f"{name}_FILE", "a secret of the server")
    variables = worker_environment(ServerSettings(data=Path("data"), database="postgresql://me@host/db"))
    left = {name for name, value in variables.items() if value == "a secret of the server"}
    needed = [option for option in secrets if option.name == "database" or option.name.startswith("s3_")]
    names = {f"{name}{end}" for option in needed for name in variables_of(option) for end in ("", "_FILE")}
    assert left == names - {"COMIC_UPSCALE_DATABASE"}
    assert variables["COMIC_UPSCALE_DATABASE"] == "postgresql://me@host/db"
    assert len(secrets) > 4


def test_only_the_secret_key_is_a_list() -> None:
    assert from_environment(API_KEY="one key, with a comma").api_key == "one key, with a comma"
    keys = from_environment(SECRET_KEY="the first long secret, the second long secret").secret_keys
    assert keys == ["the first long secret", "the second long secret"]
    with pytest.raises(SettingsError, match="SECRET_KEY must have at least 16"):
        from_environment(SECRET_KEY="the first long secret,short")


def test_the_table_in_the_documentation_is_current() -> None:
    script = runpy.run_path(str(REPOSITORY / "scripts" / "settings_table.py"))
    page = script["PAGE"].read_text(encoding="utf-8")
    assert page == script["page_with"](page, script["table"]()), (
        "run python scripts/settings_table.py --write"
    )
