"""Uploads that the storage has lost fail a job for good. A file of the worker that is gone does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from comic_upscale.server.database.schema import files, jobs
from comic_upscale.server.services import Services
from tests.fakes import NearestEngine
from tests.server.conftest import client_of, make_key
from tests.server.test_queue import taken
from tests.server.test_uploads import send
from tests.worker.test_live_pictures import runner_of


def uploaded(services: Services) -> None:
    with client_of(services, make_key(services, "me")) as client:
        assert send(client, "a.png").status_code == 202


def state(services: Services) -> tuple[str, str | None]:
    return tuple(
        services.database.read(lambda c: c.execute(sa.select(jobs.c.status, jobs.c.error_code)).one())
    )


def test_an_upload_that_is_gone_has_expired(services: Services, tmp_path: Path) -> None:
    uploaded(services)
    for key in services.database.read(lambda c: c.scalars(sa.select(files.c.storage_key)).all()):
        services.files.delete(key)
    runner_of(services, tmp_path, NearestEngine()).run(taken(services.database))
    assert state(services) == ("failed", "expired")


def test_a_file_of_the_worker_that_is_gone_is_made_again_by_the_next_attempt(
    services: Services, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uploaded(services)
    runner = runner_of(services, tmp_path, NearestEngine())

    def lose(*_: Any, **__: Any) -> None:
        raise FileNotFoundError(2, "No such file or directory", "a.png")

    monkeypatch.setattr(runner._service, "run", lose)
    runner.run(taken(services.database))
    assert state(services) == ("queued", "output")
