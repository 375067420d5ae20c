"""Every variable that the wish documents name works, or is named in the documentation with what to use instead."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from comic_upscale.server.other_variables import COMMON, OTHER_VARIABLES, notes_on
from comic_upscale.server.settings import ServerSettings
from comic_upscale.settings.environment import values_from_environment, variables_of
from comic_upscale.settings.options import definitions
from tests.conftest import REPOSITORY

PROMISED = {
    "DATABASE_URL": "postgresql://db/x", "STORAGE_BACKEND": "s3", "S3_BUCKET": "comics", "S3_ENDPOINT": "http://s3",
    "REDIS_URL": "redis://redis", "SECRET_KEY": "k" * 32, "ADMIN_SEED_USER": "boss", "ADMIN_SEED_PASS": "p" * 20,
    "MAX_UPLOAD_SIZE_BYTES": "1000", "RATE_LIMIT_PER_MINUTE": "7", "JOB_TIMEOUT_SECONDS": "60",
    "WORKER_CONCURRENCY": "3", "ML_WORKER_IDLE_TIMEOUT": "30", "ML_WORKER_BACKEND": "cpu",
    "ML_WORKER_SOCKET": "/run/comics/worker.sock", "API_KEY": "a" * 20, "MAX_CONCURRENT_JOBS": "2",
    "SMTP_HOST": "mail.example", "SMTP_PORT": "465", "SMTP_USER": "me", "SMTP_PASSWORD": "secret",
    "SMTP_FROM": "me@example.com", "SMTP_TLS": "tls", "PUBLIC_URL": "https://comics.example",
}  # fmt: skip
"""Variables with a value that differs from the default."""
NO_VARIABLES = {"TASK_ID", "Q8_0"}
"""Words of the documents that look like variables and are none."""
READ_BY_OTHERS = {"CUDA_VISIBLE_DEVICES"}


def known() -> set[str]:
    return {name for option in definitions(ServerSettings) for name in variables_of(option)}


@pytest.mark.parametrize("name", PROMISED)
def test_a_promised_variable_sets_an_option(name: str) -> None:
    (option,) = (each for each in definitions(ServerSettings) if name in variables_of(each))
    values = values_from_environment(ServerSettings, {name: PROMISED[name]})
    assert values[option.name] != option.default


def test_secrets_may_come_from_files(tmp_path: Path) -> None:
    for name in ("SMTP_PASSWORD", "REDIS_URL", "SECRET_KEY"):
        (tmp_path / name).write_text(PROMISED[name] + "\n", encoding="utf-8")
        values = values_from_environment(ServerSettings, {f"{name}_FILE": str(tmp_path / name)})
        assert list(values.values()) == [PROMISED[name]]


def test_variables_of_the_wish_documents_work_or_are_explained() -> None:
    folder = Path(os.environ.get("COMIC_UPSCALE_WISHES", REPOSITORY.parent / "shared" / "wishes"))
    if not folder.is_dir():
        pytest.skip("the documents are not here: set COMIC_UPSCALE_WISHES to their folder")
    text = "\n".join(path.read_text(encoding="utf-8") for path in folder.glob("*.md"))
    named = set(re.findall(r"\b[A-Z][A-Z0-9]+(?:_[A-Z0-9]+)+\b", text))
    assert named - known() - OTHER_VARIABLES.keys() - READ_BY_OTHERS - NO_VARIABLES == set()


def test_no_variable_works_and_is_said_not_to() -> None:
    assert known() & OTHER_VARIABLES.keys() == set()
    page = (REPOSITORY / "docs" / "server" / "configuration.md").read_text(encoding="utf-8")
    assert [name for name in OTHER_VARIABLES if f"`{name}`" not in page] == []


def test_the_log_names_what_has_no_effect() -> None:
    notes = notes_on(
        {"UPLOAD_DIR": "/x", "NODE_ENV": "production", "REDIS_HOST": "redis", "MAX_FILE_SIZE_MB": ""}
    )
    assert len(notes) == 2 and "NODE_ENV" in COMMON
    assert (
        notes[0]
        == "REDIS_HOST has no effect here. Instead: REDIS_URL. Redis counts requests and holds no jobs."
    )
