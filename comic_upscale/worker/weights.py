"""The weights of registered models, copied to this machine."""

from __future__ import annotations

import hashlib
import re
import shutil
from pathlib import Path

from comic_upscale.errors import SettingsError
from comic_upscale.models.catalogue import NAMES
from comic_upscale.server.database.engine import Database
from comic_upscale.server.files import FileStore
from comic_upscale.server.ids import new_id
from comic_upscale.server.offered import RegisteredModel, read_offered
from comic_upscale.settings.processing import AUTO_MODEL
from comic_upscale.worker.disk import disk_in_words

_FOLDER = "models"
"""In the data folder: a folder for each hash of weights."""
_HASH = re.compile("[0-9a-f]{64}")


def find_model(name: str, data: Path, database: Database, files: FileStore) -> str:
    """Return a model as the engines know it: a name of the catalogue, or the path of registered weights.

    Args:
        name: of the catalogue, or of a registered model.
        data: the data folder of this machine, which keeps copies of weights.
        database: of the server.
        files: the storage of the server.

    Raises:
        SettingsError: the model was deleted, or the stored weights are not those that were registered.
    """
    if name == AUTO_MODEL or name in NAMES:
        return name
    model = database.read(read_offered).models.get(name)
    if model is None or model.storage_key is None:
        raise SettingsError(f"the model {name} was deleted: choose another one")
    folder = data / _FOLDER / model.sha256
    for kind in ("safetensors", "pth"):
        if (path := folder / f"{name}.{kind}").exists():
            return str(path)
    return str(_fetch(model, folder, files))


def delete_unoffered(data: Path, database: Database) -> None:
    """Delete the copies of weights that the server does not offer any more, at a moment when no job uses them.

    Args:
        data: the data folder of this machine.
        database: of the server.

    Raises:
        DatabaseError: the database cannot be used.
    """
    folder = data / _FOLDER
    if not folder.is_dir():
        return
    # Listed first: a model whose copy is there by now is in the database by then.
    copies = [path.name for path in folder.iterdir() if _HASH.fullmatch(path.name)]
    offered = {model.sha256 for model in database.read(read_offered).models.values() if model.storage_key}
    for name in set(copies) - offered:
        shutil.rmtree(folder / name, ignore_errors=True)


def _fetch(model: RegisteredModel, folder: Path, files: FileStore) -> Path:
    """Copy registered weights to this machine, check their hash, and return their path."""
    assert model.storage_key is not None
    with disk_in_words():
        folder.mkdir(parents=True, exist_ok=True)
    part = folder / f"{new_id()}.part"
    try:
        files.fetch(model.storage_key, part)
        with part.open("rb") as file:
            head = file.read(9)
            file.seek(0)
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != model.sha256:
            raise SettingsError(
                f"the stored weights of the model {model.name} are damaged: register it again"
            )
        # The engines go by the extension. A safetensors file begins with the length of its JSON header.
        path = folder / f"{model.name}.{'safetensors' if head[8:] == b'{' else 'pth'}"
        # Another lane may have fetched the same model meanwhile.
        part.replace(path)
        return path
    except FileNotFoundError:
        raise SettingsError(f"the weights of the model {model.name} no longer exist") from None
    finally:
        part.unlink(missing_ok=True)
