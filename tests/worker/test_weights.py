"""The weights of registered models on the machine of a worker."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import pytest

from comic_upscale.errors import SettingsError
from comic_upscale.execution.stop import StopRequest
from comic_upscale.server.files import store_file
from comic_upscale.server.ids import new_id
from comic_upscale.server.offered import delete_model, register_model
from comic_upscale.server.services import Services
from comic_upscale.worker.run import WorkerOptions, work
from comic_upscale.worker.weights import find_model


def register(services: Services, name: str) -> Path:
    """Register weights of this name, and return the copy that a job gets."""
    weights = name.encode() * 10
    store_file(services.files, f"models/{name}", io.BytesIO(weights))
    sha256 = hashlib.sha256(weights).hexdigest()
    services.database.write(lambda connection: register_model(connection, name, sha256, f"models/{name}"))
    return find(services, name)


def find(services: Services, name: str) -> Path:
    return Path(find_model(name, services.settings.data, services.database, services.files))


def start_worker(services: Services) -> None:
    """Let a worker start, which ends at once."""
    stop = StopRequest()
    stop.request("the test ends")
    options = WorkerOptions(worker_id=new_id(), defaults={})
    work(services.settings, options, stop)


def test_a_worker_that_starts_deletes_the_copies_of_deleted_models(services: Services) -> None:
    kept, gone = register(services, "mine"), register(services, "older")
    notes = kept.parents[1] / "notes"
    notes.mkdir()
    start_worker(services)
    assert kept.is_file() and gone.is_file()
    services.database.write(lambda connection: delete_model(connection, "older"))
    start_worker(services)
    assert kept.is_file() and notes.is_dir() and not gone.parent.exists()
    assert find(services, "mine") == kept
    with pytest.raises(SettingsError, match="the model older was deleted"):
        find(services, "older")


def test_two_names_of_the_same_weights_share_a_folder(services: Services) -> None:
    first = register(services, "mine")
    sha256 = first.parent.name
    services.database.write(lambda c: register_model(c, "twin", sha256, "models/mine"))
    second = find(services, "twin")
    services.database.write(lambda connection: delete_model(connection, "mine"))
    start_worker(services)
    assert second.parent == first.parent and second.is_file()
