"""A folder of a diffusers pipeline, read without diffusers: its parts, their sizes, its licence, its identity."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from comic_upscale.errors import SettingsError, WeightsError

INDEX = "model_index.json"
TEXT_PARTS = ("text_encoder", "text_encoder_2", "text_encoder_3", "tokenizer", "tokenizer_2", "tokenizer_3")
"""The parts of a pipeline that only turn the prompt into numbers."""
_WEIGHTS = (".safetensors", ".gguf", ".bin")
_LICENCE = re.compile(r"^license(?:_name)?\s*:\s*(\S+)", re.MULTILINE)
_FREE = ("apache-2.0", "mit", "bsd", "openrail", "cc0", "cc-by-4.0", "creativeml-openrail")
_SAMPLE = 1 << 20
"""Bytes at the start and at the end of a file of weights that count for its identity: all of it takes minutes."""


@dataclass(frozen=True, slots=True)
class PipelineFolder:
    """A pipeline on the disk."""

    path: Path
    kind: str
    """The class of diffusers: ``"FluxPipeline"``."""
    parts: tuple[str, ...]
    """The parts with files of their own: ``("transformer", "vae")``."""

    @classmethod
    def read(cls, path: Path) -> PipelineFolder:
        """Read the index of a folder.

        Raises:
            WeightsError: the folder has no pipeline.
        """
        try:
            index: Any = json.loads((path / INDEX).read_text(encoding="utf-8"))
            kind = str(index["_class_name"])
        except (OSError, ValueError, KeyError, TypeError):
            raise WeightsError(
                f"{path} is not the folder of a diffusers pipeline, with a {INDEX}: download one, for example with "
                "`hf download black-forest-labs/FLUX.1-schnell --local-dir FOLDER`"
            ) from None
        parts = [
            name
            for name, value in index.items()
            if isinstance(value, list) and len(value) == 2 and value[0] is not None and (path / name).is_dir()
        ]
        return cls(path, kind, tuple(parts))

    def bytes_of(self, part: str) -> int:
        """Return the bytes of the weights of a part."""
        return sum(file.stat().st_size for file in self._weights(part))

    def identity(self) -> str:
        """Return a hash of the configuration and of samples of all weights, 64 hexadecimal digits."""
        digest = hashlib.sha256(self.kind.encode())
        for part in self.parts:
            if part in TEXT_PARTS:
                continue
            for file in sorted((self.path / part).glob("*.json")):
                digest.update(f"{part}/{file.name}".encode() + file.read_bytes())
            for file in self._weights(part):
                digest.update(f"{part}/{file.name}".encode() + sample_of(file))
        return digest.hexdigest()

    def licence(self) -> str | None:
        """Return the licence that the folder names; None if it names none."""
        named: list[str]
        for name in ("README.md", "LICENSE.md", "LICENSE", "LICENSE.txt"):
            file = self.path / name
            if not file.is_file():
                continue
            text = file.read_text(encoding="utf-8", errors="replace")[:20_000]
            # The most restrictive line counts: FLUX.1-dev has both `license: other` and its name.
            named = [str(each).strip("'\"").lower() for each in _LICENCE.findall(text.split("\n---", 1)[0])]
            if named and name == "README.md":
                return next((each for each in named if "non-commercial" in each), named[0])
            if "non-commercial" in text.lower() or "noncommercial" in text.lower():
                return "non-commercial"
            if "apache license" in text.lower():
                return "apache-2.0"
        return None

    def check_licence(self, *, accepted: bool) -> None:
        """Refuse weights that may not be used commercially, or whose licence is unknown, unless the user accepted it.

        Raises:
            SettingsError: it is not accepted.
        """
        licence = self.licence()
        is_free = licence is not None and any(licence.startswith(each) for each in _FREE)
        if not (is_free or accepted):
            what = (
                f"has the licence {licence}" if licence else "names no licence that is known to allow any use"
            )
            raise SettingsError(
                f"the pipeline in {self.path} {what}: read its licence. If it allows what you do, add "
                "--engine-option accept_noncommercial=true"
            )

    def _weights(self, part: str) -> list[Path]:
        files = sorted(each for each in (self.path / part).rglob("*") if each.suffix in _WEIGHTS)
        safe = [each for each in files if each.suffix == ".safetensors"]
        return safe or files


def sample_of(file: Path) -> bytes:
    """Return the size of a file, and its first and last `_SAMPLE` bytes."""
    size = file.stat().st_size
    with file.open("rb") as opened:
        start = opened.read(_SAMPLE)
        opened.seek(max(0, size - _SAMPLE))
        return size.to_bytes(8, "big") + start + opened.read()


def identity_of_folder(path: Path) -> str:
    """Return the identity of the pipeline in a folder; errors as in `PipelineFolder.read`."""
    return _identity(path, (path / INDEX).stat().st_mtime_ns if (path / INDEX).is_file() else 0)


@lru_cache(maxsize=8)
def _identity(path: Path, time: int) -> str:
    return PipelineFolder.read(path).identity()


def identity_of_file(path: Path | None) -> str:
    """Return the identity of a file of weights; empty for None.

    Raises:
        WeightsError: there is no such file.
    """
    if path is None:
        return ""
    try:
        return hashlib.sha256(sample_of(path)).hexdigest()
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error.strerror or error}") from error
