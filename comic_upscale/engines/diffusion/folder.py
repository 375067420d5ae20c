"""A folder of a diffusers pipeline, read without diffusers: its parts, their sizes, its licence, its identity."""

from __future__ import annotations

import hashlib
import json
import math
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from comic_upscale.engines.telemetry import disable_telemetry
from comic_upscale.errors import SettingsError, WeightsError

DEFAULT_PIPELINE = Path("black-forest-labs/FLUX.2-klein-4B")
"""Its licence is Apache-2.0, and it draws in four steps."""
INDEX = "model_index.json"
TEXT_PARTS = ("text_encoder", "text_encoder_2", "text_encoder_3", "tokenizer", "tokenizer_2", "tokenizer_3")
"""The parts of a pipeline that only turn the prompt into numbers."""
BY_MASK = {"Flux2KleinPipeline": "Flux2KleinInpaintPipeline"}
"""Pipelines that draw over an image under a mask only. The mask is then the whole tile."""
LARGEST_BY_MASK = 1024
"""The longest side of a tile that these do not shrink."""
FLUX_1 = ("FluxPipeline", "FluxImg2ImgPipeline")
"""Pipelines of FLUX.1."""
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
"""A name of the Hugging Face hub: OWNER/NAME."""
_WEIGHTS = (".safetensors", ".gguf", ".bin")
_LICENCE = re.compile(r"^license(?:_name)?\s*:\s*(\S+)", re.MULTILINE)
_RESTRICTED = re.compile(r"flux.*(?:dev|kontext|klein[-_]?9b)|^(?:dev|kontext)(?:[-_.]|$)")
"""Names of files with weights of FLUX that may not be used commercially."""
_FREE = ("apache-2.0", "mit", "bsd", "openrail", "cc0", "cc-by-4.0", "creativeml-openrail")
_LONGEST_HEADER = 100_000_000
"""The most bytes of the header of a safetensors file, as its own library allows."""
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
    is_distilled: bool
    """Whether it was trained to draw in a few steps, as FLUX.2-klein and FLUX.1-schnell."""

    @classmethod
    def read(cls, path: Path) -> PipelineFolder:
        """Read the index of a folder.

        Args:
            path: of the folder, or a name as for `find_pipeline`.

        Raises:
            WeightsError: the folder has no pipeline, or the name was not downloaded.
        """
        named, path = path, find_pipeline(path)
        try:
            index: Any = json.loads((path / INDEX).read_text(encoding="utf-8"))
            kind = str(index["_class_name"])
        except (OSError, ValueError, KeyError, TypeError):
            if _is_hub_name(named):
                name = named.as_posix()
                raise WeightsError(
                    f"the pipeline {name} is no folder here, and was not downloaded, or not all of it: run "
                    f"`hf download {name}`, or name the folder of another one with --pipeline FOLDER"
                ) from None
            what = (
                "is a file, and a pipeline is a folder: for the transformer alone use --engine-option transformer=FILE"
                if path.is_file()
                else f"is not the folder of a diffusers pipeline, because its {INDEX} is missing or damaged"
                if path.is_dir()
                else "does not exist"
            )
            raise WeightsError(
                f"{path} {what}. Download a pipeline, for example with `hf download {DEFAULT_PIPELINE.as_posix()} "
                "--local-dir FOLDER`"
            ) from None
        parts = [
            name
            for name, value in index.items()
            if isinstance(value, list) and len(value) == 2 and value[0] is not None and (path / name).is_dir()
        ]
        return cls(path, kind, tuple(parts), _is_distilled(path, kind, index))

    @property
    def usual_steps(self) -> int:
        """The steps for a strength of 1."""
        return 4 if self.is_distilled else 20

    @property
    def encodes_once(self) -> bool:
        """Whether its prompt is encoded once and stored, so that the text encoders are not loaded again."""
        return self.kind in FLUX_1 or (self.kind in BY_MASK and self.is_distilled)

    @property
    def encoders(self) -> tuple[str, ...]:
        """The text encoders that it needs for that."""
        return ("text_encoder", "text_encoder_2") if self.kind in FLUX_1 else ("text_encoder",)

    def bytes_of(self, part: str, width: int | None = None) -> int:
        """Return the bytes of the weights of a part; with ``width``, as `bytes_in_memory`."""
        if width is None:
            return sum(file.stat().st_size for file in self._weights(part))
        return sum(bytes_in_memory(file, width) for file in self._weights(part))

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

    def identity_of_text(self) -> str:
        """Return a hash of samples of the weights that encode the prompt, 64 hexadecimal digits."""
        digest = hashlib.sha256()
        for part in self.parts:
            for file in self._weights(part) if part in TEXT_PARTS else ():
                digest.update(f"{part}/{file.name}".encode() + sample_of(file))
        return digest.hexdigest()

    def licence(self) -> str | None:
        """Return the licence that the folder names; None if it names none."""
        return licence_of(self.path)

    def check_licence(self, *, accepted: bool) -> None:
        """Refuse weights as `check_licence` does."""
        check_licence(self.path, "pipeline", accepted=accepted)

    def _weights(self, part: str) -> list[Path]:
        return weights_in(self.path / part)


@dataclass(frozen=True, slots=True)
class NetworkFolder:
    """A single network of diffusers on the disk, such as a ControlNet."""

    path: Path

    def bytes_in_memory(self, width: int) -> int:
        """Return the bytes of the weights; arguments as for `bytes_in_memory`."""
        return sum(bytes_in_memory(file, width) for file in weights_in(self.path))

    def identity(self) -> str:
        """Return a hash of the configuration and of samples of the weights, 64 hexadecimal digits.

        Raises:
            WeightsError: the folder has no network.
        """
        try:
            digest = hashlib.sha256((self.path / "config.json").read_bytes())
            files = weights_in(self.path)
            for file in files:
                digest.update(file.name.encode() + sample_of(file))
        except OSError:
            files = []
        if not files:
            raise WeightsError(
                f"{self.path} is not the folder of a network of diffusers, with a config.json and a .safetensors file"
            )
        return digest.hexdigest()


def find_pipeline(path: Path) -> Path:
    """Return the folder of a pipeline.

    Args:
        path: the folder, or a name of the Hugging Face hub that ``hf download NAME`` has put into its cache. Nothing is
            downloaded.

    Raises:
        SettingsError: a name is given, and the package that knows the cache is not installed.
    """
    if not _is_hub_name(path):
        return path
    disable_telemetry()
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise SettingsError(
            "--engine flux needs huggingface_hub, which is not installed: pip install 'comic-upscale[flux]'"
        ) from None
    try:
        return Path(snapshot_download(path.as_posix(), local_files_only=True))
    except (OSError, ValueError):
        return path


def _is_hub_name(path: Path) -> bool:
    """Whether it is a name of the hub and no folder of this machine."""
    return (
        _HUB_NAME.fullmatch(path.as_posix()) is not None
        and ".." not in path.parts
        and not path.parent.is_dir()
    )


def _is_distilled(path: Path, kind: str, index: Any) -> bool:
    if kind in FLUX_1:
        # The full model takes the guidance as a number; schnell has none.
        try:
            transformer: Any = json.loads((path / "transformer" / "config.json").read_text(encoding="utf-8"))
            return transformer.get("guidance_embeds") is False
        except (OSError, ValueError, AttributeError):
            return False
    return index.get("is_distilled") is True


def weights_in(folder: Path) -> list[Path]:
    """Return the files of weights below a folder: safetensors, or else those of other kinds.

    Variants such as ``model.fp16.safetensors`` are left out if the weights are there without them, as diffusers does.
    """
    files = sorted(each for each in folder.rglob("*") if each.suffix in _WEIGHTS)
    files = [each for each in files if each.suffix == ".safetensors"] or files
    return [each for each in files if "." not in each.stem] or files


def bytes_in_memory(file: Path, width: int) -> int:
    """Return the bytes that the weights of a file take once they are loaded.

    Args:
        file: of weights. Quantized ones (.gguf) stay as they are.
        width: bytes of a number of the precision: 4 for fp32, 2 for fp16 and bf16. Numbers of other widths are turned
            into it, such as those of a file in bf16 on a CPU.

    Raises:
        WeightsError: the file is damaged.
    """
    if file.suffix != ".safetensors":
        return file.stat().st_size
    try:
        with file.open("rb") as opened:
            length = int.from_bytes(opened.read(8), "little")
            header: Any = json.loads(opened.read(min(length, _LONGEST_HEADER)))
        tensors = [value for name, value in header.items() if name != "__metadata__"]
        end = max((each["data_offsets"][1] for each in tensors), default=0)
        if 8 + length + end != file.stat().st_size:
            raise ValueError("a download that broke off")
        return sum(
            math.prod(each["shape"]) * width
            if each["dtype"].startswith(("F", "BF"))
            else each["data_offsets"][1] - each["data_offsets"][0]
            for each in tensors
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise WeightsError(f"{file} is not a whole .safetensors file: download it again") from error


def licence_of(folder: Path) -> str | None:
    """Return the licence that a folder names; None if it names none."""
    named: list[str]
    for name in ("README.md", "LICENSE.md", "LICENSE", "LICENSE.txt"):
        file = folder / name
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


def check_licence_of_file(file: Path, *, accepted: bool) -> None:
    """Refuse a single file of weights that is known to be for non-commercial use, unless the user accepted that.

    A file of weights seldom has its licence with it. So a README beside it counts, and the names of those models of
    Black Forest Labs that are not free: a free pipeline does not free other weights that are put into it.

    Raises:
        SettingsError: it is not accepted.
    """
    licence = licence_of(file.parent)
    is_free = licence is None or _is_free(licence)
    # Also where a README says that other weights of its folder are free.
    if is_free and _RESTRICTED.search(file.stem.lower()):
        licence = "non-commercial, by its name"
    if licence is not None and not _is_free(licence) and not accepted:
        raise SettingsError(
            f"the transformer {file} has the licence {licence}: read it. If it allows what you do, add "
            "--accept-noncommercial (on a server: --flux-option accept_noncommercial=true)"
        )


def check_licence(folder: Path, what: str, *, accepted: bool) -> None:
    """Refuse weights that may not be used commercially, or whose licence is unknown, unless the user accepted it.

    Args:
        folder: of the weights.
        what: they are, for the message.
        accepted: whether the user has read the licence.

    Raises:
        SettingsError: it is not accepted.
    """
    licence = licence_of(folder)
    if not ((licence is not None and _is_free(licence)) or accepted):
        why = f"has the licence {licence}" if licence else "names no licence that is known to allow any use"
        raise SettingsError(
            f"the {what} in {folder} {why}: read its licence. If it allows what you do, add "
            "--accept-noncommercial (on a server: --flux-option accept_noncommercial=true)"
        )


def _is_free(licence: str) -> bool:
    return any(licence.startswith(each) for each in _FREE)


def sample_of(file: Path) -> bytes:
    """Return the size of a file, and its first and last `_SAMPLE` bytes."""
    size = file.stat().st_size
    with file.open("rb") as opened:
        start = opened.read(_SAMPLE)
        opened.seek(max(0, size - _SAMPLE))
        return size.to_bytes(8, "big") + start + opened.read()


def identity_of_folder(path: Path) -> str:
    """Return the identity of the pipeline in a folder; argument and errors as in `PipelineFolder.read`."""
    path = find_pipeline(path)
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


def identity_of_network(path: Path | None) -> str:
    """Return the identity of the network in a folder; empty for None. Errors as in `NetworkFolder.identity`."""
    return "" if path is None else NetworkFolder(path).identity()
