"""Files of weights on disk: finding them, knowing them by their hash, and saying which pixels they make.

Nothing here reads what is inside a file; ``network.py`` does.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

from comic_upscale.errors import SettingsError, WeightsError
from comic_upscale.models.catalogue import CATALOGUE, Model, WeightsFile, find_model
from comic_upscale.models.digest import sha256_of
from comic_upscale.models.download import OnProgress, fetch

SUFFIXES = (".pth", ".pt", ".safetensors")
"""What a file of weights may end in to be taken for one without a folder in front."""

_PACKAGE = Path(__file__).resolve().parents[1]
BUNDLED_FOLDERS = (_PACKAGE / "weights", _PACKAGE.parent / "weights")
"""Where files that come with the package are: inside it once it is installed, beside it in a clone."""

REINSTALL = "It comes with comic-upscale: install the package again (in a clone: git checkout weights)"
"""What to do about a file of the package that is missing or has other bytes."""

State: TypeAlias = Literal["ok", "missing", "wrong hash"]


@dataclass(frozen=True, slots=True)
class ResolvedWeights:
    """The files that a run computes with, found on this machine and known by their hashes."""

    model_name: str
    """The name in the catalogue, or the name of the file."""
    path: Path
    """The weights."""
    sha256: str
    """SHA-256 of ``path``."""
    denoise_path: Path | None = None
    """The weights to mix in, None where nothing is mixed."""
    denoise_sha256: str | None = None
    """SHA-256 of ``denoise_path``, None exactly where that is None."""
    model: Model | None = None
    """The entry in the catalogue, None for a file of the user's own."""

    @property
    def identity(self) -> str:
        """64 hexadecimal digits: equal for two resolutions exactly where the same weights are used.

        A file has the same identity by name and by path. The strength of a mix is a setting and has
        no part in it.
        """
        return identity_of(self.sha256, self.denoise_sha256)


class FileCheck(NamedTuple):
    """What ``verify`` says of one file."""

    file: WeightsFile
    """The file as it was published."""
    path: Path | None
    """Where it was found."""
    state: State
    """``"missing"`` exactly where ``path`` is None."""


def locate(file: WeightsFile, folders: Sequence[Path]) -> Path | None:
    """Return the path of the file in the first folder that has it, None where none does.

    The hash is not looked at. Folders that do not exist are passed over. A file that comes with the package
    is looked for in ``BUNDLED_FOLDERS`` alone: one that an older version left elsewhere is not this one.
    """
    if file.bundled:
        folders = BUNDLED_FOLDERS
    return next((path for folder in folders if (path := folder / file.name).is_file()), None)


def where(model: Model, folders: Sequence[Path], cache: Path) -> list[tuple[WeightsFile, Path | None]]:
    """Return where each file of the model is, in the order of ``Model.files``; None where it is not.

    Answers at once: no file is read.
    """
    return [(file, locate(file, [*folders, cache])) for file in model.files]


def verify(model: Model, folders: Sequence[Path], cache: Path) -> list[FileCheck]:
    """Hash each file of the model that is on this machine, in the order of ``Model.files``.

    Raises:
        WeightsError: a file is there but cannot be read.
    """
    checks = []
    for file, path in where(model, folders, cache):
        state: State = "missing"
        if path is not None:
            state = "ok" if sha256_of(path) == file.sha256 else "wrong hash"
        checks.append(FileCheck(file, path, state))
    return checks


def check_denoise(denoise: float | None) -> None:
    """Accept a denoise strength of 0 (leave noise alone) to 1 (the most), or None for no wish.

    Raises:
        SettingsError: anything else, NaN among it.
    """
    if denoise is not None and not 0 <= denoise <= 1:
        raise SettingsError(f"The denoise strength must be from 0 to 1, not {denoise:g}.")


def mixes(denoise: float | None) -> bool:
    """Tell whether this strength needs the second weights: 1 and no wish are the base weights alone."""
    return denoise is not None and denoise < 1


def resolve_weights(
    model: str,
    *,
    denoise: float | None,
    folders: Sequence[Path],
    cache: Path,
    download: bool = True,
    on_progress: OnProgress | None = None,
    catalogue: Mapping[str, Model] = CATALOGUE,
) -> ResolvedWeights:
    """Return the weights that the user asked for, on this machine and, for a known name, the official bytes.

    The folders are searched in order, then the cache; what is in none of them is downloaded into the
    cache. What comes with the package is taken from there. Every file is hashed once.

    Args:
        model: a name in the catalogue, or the path of a file: whatever contains a separator, or ends
            in one of ``SUFFIXES`` and exists.
        denoise: 0..1, for models with denoise weights only; None for no wish.
        folders: where the user keeps weights.
        cache: the folder that downloads go to; made when needed.
        download: False to stay off the network.
        on_progress: called with the file's name, bytes done and bytes in all during a download.
        catalogue: the models known by name.

    Raises:
        SettingsError: the strength is outside 0..1, or the model has no denoise weights.
        WeightsError: the name is unknown, a file of the package is missing, another file is missing and
            could not or may not be fetched, or a file under an official name has other bytes.
    """
    check_denoise(denoise)
    if _is_path(model):
        return _resolve_file(Path(model), denoise, catalogue)
    entry = find_model(model, catalogue)
    if denoise is not None and entry.denoise_weights is None:
        raise no_denoise(entry.name, catalogue)

    def obtain(file: WeightsFile) -> Path:
        found = locate(file, [*folders, cache])
        if found is not None:
            _check(found, file)
            return found
        if file.bundled:
            raise WeightsError(f"{file.name} is missing from {BUNDLED_FOLDERS[0]}. {REINSTALL}.")
        if not download:
            raise WeightsError(
                f"{file.name} is not on this machine and downloading is off. Fetch {file.url} and put it "
                f"at {(folders[0] if folders else cache) / file.name}."
            )
        return fetch(file, cache, on_progress)

    mixed = entry.denoise_weights if mixes(denoise) else None
    return ResolvedWeights(
        model_name=entry.name,
        path=obtain(entry.weights),
        # obtain() let nothing else through, so that no file is hashed a second time.
        sha256=entry.weights.sha256,
        denoise_path=None if mixed is None else obtain(mixed),
        denoise_sha256=None if mixed is None else mixed.sha256,
        model=entry,
    )


def identify_weights(
    model: str, *, denoise: float | None, catalogue: Mapping[str, Model] = CATALOGUE
) -> tuple[str, str]:
    """Return (model name, identity) as ``resolve_weights`` would, without fetching or even finding files.

    A known name has the hashes of the catalogue; only a file of the user's own is read.

    Raises:
        SettingsError, WeightsError: as ``resolve_weights``.
    """
    check_denoise(denoise)
    if _is_path(model):
        own = _resolve_file(Path(model), denoise, catalogue)
        return own.model_name, own.identity
    entry = find_model(model, catalogue)
    if denoise is not None and entry.denoise_weights is None:
        raise no_denoise(entry.name, catalogue)
    mixed = entry.denoise_weights if mixes(denoise) else None
    return entry.name, identity_of(entry.weights.sha256, None if mixed is None else mixed.sha256)


def identity_of(sha256: str, denoise_sha256: str | None) -> str:
    """64 hexadecimal digits for one file of weights, or for two that are mixed."""
    if denoise_sha256 is None:
        return sha256
    return hashlib.sha256(f"{sha256}+{denoise_sha256}".encode()).hexdigest()


def _is_path(model: str) -> bool:
    if any(separator in model for separator in (os.sep, os.altsep) if separator):
        return True
    return model.lower().endswith(SUFFIXES) and Path(model).exists()


def _resolve_file(path: Path, denoise: float | None, catalogue: Mapping[str, Model]) -> ResolvedWeights:
    if denoise is not None:
        raise no_denoise(path.name, catalogue)
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise WeightsError(f"{path} {what}. Give the path of a .pth or .safetensors file, or a model's name.")
    return ResolvedWeights(model_name=path.name, path=path, sha256=sha256_of(path))


def no_denoise(name: str, catalogue: Mapping[str, Model] = CATALOGUE) -> SettingsError:
    """Return the error for a denoise strength that the model of this name does not have."""
    able = [model.name for model in catalogue.values() if model.denoise_weights is not None]
    hint = f"use {' or '.join(able)}, or " if able else ""
    return SettingsError(f"{name} has no denoise strength: {hint}leave the strength out.")


def _check(path: Path, file: WeightsFile) -> None:
    """Refuse other bytes under an official name: they would make other pixels without a word."""
    found = sha256_of(path)
    if found == file.sha256:
        return
    size = path.stat().st_size
    sizes = "" if size == file.size else f" It has {size:,} bytes, the official file has {file.size:,}."
    remedy = REINSTALL if file.bundled else f"Delete it and fetch it again from {file.url}"
    raise WeightsError(
        f"{path} is not the official {file.name}: its SHA-256 is {found}, expected {file.sha256}.{sizes} "
        f"{remedy}, or, if you trust it, pass it as --model {path}."
    )


__all__ = [
    "BUNDLED_FOLDERS",
    "REINSTALL",
    "SUFFIXES",
    "FileCheck",
    "ResolvedWeights",
    "State",
    "check_denoise",
    "fetch",
    "identify_weights",
    "identity_of",
    "locate",
    "mixes",
    "no_denoise",
    "resolve_weights",
    "sha256_of",
    "verify",
    "where",
]
