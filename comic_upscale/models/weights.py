"""Files of weights on disk: find them, check their hashes, and identify the network that they form.

The content of files is read in ``network.py``, not here.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

from comic_upscale.errors import SettingsError, WeightsError
from comic_upscale.models.catalogue import CATALOGUE, SUFFIXES, Model, WeightsFile, family_of, find_model
from comic_upscale.models.digest import sha256_of
from comic_upscale.models.download import OnProgress, fetch

_PACKAGE = Path(__file__).resolve().parents[1]
BUNDLED_FOLDERS = (_PACKAGE / "weights", _PACKAGE.parent / "weights")
"""The folders of bundled files: inside the installed package, or beside it in a clone."""

REINSTALL = "It is part of comic-upscale: install the package again (in a clone: git checkout weights)"
"""The advice for a bundled file that is missing or has other bytes."""

State: TypeAlias = Literal["ok", "missing", "wrong hash"]


@dataclass(frozen=True, slots=True)
class ResolvedWeights:
    """The files of weights that a run uses, on this machine and with their hashes."""

    model_name: str
    """The name in the catalogue, or the name of the file."""
    path: Path
    """The weights."""
    sha256: str
    """SHA-256 of ``path``."""
    denoise_path: Path | None = None
    """The weights to mix in; None if nothing is mixed."""
    denoise_sha256: str | None = None
    """SHA-256 of ``denoise_path``; None exactly if that is None."""
    model: Model | None = None
    """The entry in the catalogue; None for the user's own file."""
    own_strength: int = 1
    """The denoise strength of ``path``, 1 or 0; that of ``denoise_path`` is the other one."""
    int8_path: Path | None = None
    """The same weights in 8 bits; None if there are none, if they are damaged, or if weights are mixed."""

    @property
    def identity(self) -> str:
        """64 hexadecimal digits, equal exactly if the same weights are used.

        A file has the same identity by name and by path. The strength of a mix is a setting and not part of it.
        """
        return identity_of(self.sha256, self.denoise_sha256)


class FileCheck(NamedTuple):
    """The result of ``verify`` for one file."""

    file: WeightsFile
    """The published file."""
    path: Path | None
    """The path of the file."""
    state: State
    """``"missing"`` exactly if ``path`` is None."""


def locate(file: WeightsFile, folders: Sequence[Path]) -> Path | None:
    """Return the path of the file in the first folder that has it; None if no folder does.

    The hash is not checked. Folders that do not exist are ignored. A bundled file is searched only in
    ``BUNDLED_FOLDERS``, because a copy in another folder may be of another version.
    """
    if file.bundled:
        folders = BUNDLED_FOLDERS
    return next((path for folder in folders if (path := folder / file.name).is_file()), None)


def where(model: Model, folders: Sequence[Path], cache: Path) -> list[tuple[WeightsFile, Path | None]]:
    """Return the path of each file of the model, in the order of ``Model.files``; None for a missing file.

    It is fast, because no file is read.
    """
    return [(file, locate(file, [*folders, cache])) for file in model.files]


def verify(model: Model, folders: Sequence[Path], cache: Path) -> list[FileCheck]:
    """Hash each file of the model that is on this machine, in the order of ``Model.files``.

    Raises:
        WeightsError: a file exists but cannot be read.
    """
    checks = []
    for file, path in where(model, folders, cache):
        state: State = "missing"
        if path is not None:
            state = "ok" if sha256_of(path) == file.sha256 else "wrong hash"
        checks.append(FileCheck(file, path, state))
    return checks


def check_denoise(denoise: float | None) -> None:
    """Accept a denoise strength of 0 (no denoising) to 1 (the most), or None.

    Raises:
        SettingsError: any other value, including NaN.
    """
    if denoise is not None and not 0 <= denoise <= 1:
        raise SettingsError(f"The denoise strength must be between 0 and 1, not {denoise:g}")


def mixes(denoise: float | None, own_strength: int = 1) -> bool:
    """Return whether this strength needs the denoise weights.

    Args:
        denoise: 0..1; with None, the base weights are used alone.
        own_strength: the denoise strength of the base weights, with which they are used alone, too.
    """
    return denoise is not None and denoise != own_strength


def known_model(model: str) -> Model | None:
    """Return the model of the catalogue with this name, in any case; None if there is none, as for a file's path."""
    if _is_path(model):
        return None
    try:
        return find_model(model)
    except WeightsError:
        return None


def is_mixed(model: str, denoise: float | None) -> bool:
    """Return whether a model with this denoise strength is made of two files.

    Args:
        model: a name in the catalogue, or the path of a file, for which the result is False.
        denoise: 0..1; None if not specified.
    """
    entry = known_model(model)
    return entry is not None and mixes(denoise, entry.own_strength)


def cleans_white(model: str, denoise: float | None) -> bool:
    """Return whether a network with this denoise strength removes JPEG artifacts from white.

    Args:
        model: a name in the catalogue, or the path of a file, for which the result is False.
        denoise: 0..1; None if not specified.
    """
    entry = known_model(model)
    if entry is None:
        return False
    return entry.cleans_white or (entry.own_strength == 0 and mixes(denoise, entry.own_strength))


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
    """Return the requested weights. They are on this machine, and for a catalogue name they have the official bytes.

    The folders are searched in order, then the cache. Weights found in none of these are downloaded into the cache.
    Bundled weights come from the package. Every file is hashed once.

    Args:
        model: a name in the catalogue, or the path of a file: any text that contains a separator, or that ends in
            one of ``SUFFIXES`` and exists.
        denoise: 0..1, only for models with denoise weights; None if not specified.
        folders: folders with the user's weights.
        cache: folder for downloads; created when needed.
        download: False to never use the network.
        on_progress: called with the file's name, bytes done and bytes in all during a download.
        catalogue: the models known by name.

    Raises:
        SettingsError: the strength is outside 0..1, or the model has no denoise weights.
        WeightsError: the name is unknown, a bundled file is missing, another file is missing and could not or may
            not be downloaded, or a file with an official name has other bytes.
    """
    check_denoise(denoise)
    if _is_path(model):
        return _resolve_file(Path(model), denoise, catalogue)
    entry = find_model(model, catalogue)
    if denoise is not None and entry.denoise_weights is None:
        raise _no_denoise(entry.name, catalogue)

    def obtain(file: WeightsFile) -> Path:
        found = locate(file, [*folders, cache])
        if found is not None:
            _check(found, file)
            return found
        if file.bundled:
            raise WeightsError(f"{file.name} is missing from {BUNDLED_FOLDERS[0]}. {REINSTALL}")
        if not download:
            raise WeightsError(
                f"{file.name} is not on this machine and downloads are off. Download {file.url} and "
                f"save it as {(folders[0] if folders else cache) / file.name}"
            )
        return fetch(file, cache, on_progress)

    mixed = entry.denoise_weights if mixes(denoise, entry.own_strength) else None
    return ResolvedWeights(
        model_name=entry.name,
        path=obtain(entry.weights),
        # obtain() accepts no other hash, so the file is not hashed again.
        sha256=entry.weights.sha256,
        denoise_path=None if mixed is None else obtain(mixed),
        denoise_sha256=None if mixed is None else mixed.sha256,
        model=entry,
        own_strength=entry.own_strength,
        int8_path=None if mixed is not None else find_int8(entry),
    )


def find_int8(model: Model) -> Path | None:
    """Return the weights of a model in 8 bits. They must not end a run that does without: ``verify`` reports them."""
    file = model.int8_weights
    found = None if file is None else locate(file, ())
    return found if file is not None and found is not None and sha256_of(found) == file.sha256 else None


def identify_weights(
    model: str, *, denoise: float | None, catalogue: Mapping[str, Model] = CATALOGUE
) -> tuple[str, str]:
    """Return (model name, identity) as ``resolve_weights`` would, without downloading or finding files.

    The hashes of a catalogue name are known. Only the user's own file is read.

    Raises:
        SettingsError, WeightsError: as ``resolve_weights``.
    """
    check_denoise(denoise)
    if _is_path(model):
        own = _resolve_file(Path(model), denoise, catalogue)
        return own.model_name, own.identity
    entry = find_model(model, catalogue)
    if denoise is not None and entry.denoise_weights is None:
        raise _no_denoise(entry.name, catalogue)
    mixed = entry.denoise_weights if mixes(denoise, entry.own_strength) else None
    return entry.name, identity_of(entry.weights.sha256, None if mixed is None else mixed.sha256)


def identity_of(sha256: str, denoise_sha256: str | None) -> str:
    """Return 64 hexadecimal digits for one file of weights, or for two mixed files."""
    if denoise_sha256 is None:
        return sha256
    return hashlib.sha256(f"{sha256}+{denoise_sha256}".encode()).hexdigest()


def _is_path(model: str) -> bool:
    if any(separator in model for separator in (os.sep, os.altsep) if separator):
        return True
    return model.lower().endswith(SUFFIXES) and Path(model).exists()


def _resolve_file(path: Path, denoise: float | None, catalogue: Mapping[str, Model]) -> ResolvedWeights:
    if denoise is not None:
        raise _no_denoise(path.name, catalogue)
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise WeightsError(f"{path} {what}. Give the path of a .pth or .safetensors file, or a model's name")
    return ResolvedWeights(model_name=path.name, path=path, sha256=sha256_of(path))


def _no_denoise(name: str, catalogue: Mapping[str, Model] = CATALOGUE) -> SettingsError:
    """Return the error for a model without a denoise strength."""
    able = dict.fromkeys(
        family_of(model) for model in catalogue.values() if model.denoise_weights is not None
    )
    hint = f"use {', '.join(able)}, or leave out --denoise" if able else "leave out --denoise"
    return SettingsError(f"{name} has no denoise strength: {hint}")


def _check(path: Path, file: WeightsFile) -> None:
    """Refuse other bytes under an official name. They would silently give other pixels."""
    found = sha256_of(path)
    if found == file.sha256:
        return
    size = path.stat().st_size
    sizes = "" if size == file.size else f" It has {size:,} bytes, the official file has {file.size:,}."
    remedy = REINSTALL if file.bundled else f"Delete it and download it again from {file.url}"
    raise WeightsError(
        f"{path} is not the official {file.name}: its SHA-256 is {found}, expected {file.sha256}.{sizes} "
        f"{remedy}, or, if you trust it, pass it as --model {path}"
    )


__all__ = [
    "BUNDLED_FOLDERS",
    "REINSTALL",
    "SUFFIXES",
    "FileCheck",
    "ResolvedWeights",
    "State",
    "check_denoise",
    "cleans_white",
    "fetch",
    "find_int8",
    "identify_weights",
    "identity_of",
    "is_mixed",
    "known_model",
    "locate",
    "mixes",
    "resolve_weights",
    "sha256_of",
    "verify",
    "where",
]
