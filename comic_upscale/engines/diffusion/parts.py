"""The parts of a pipeline with all of their weights: the libraries draw those that a file lacks at random."""

from __future__ import annotations

import inspect
import itertools
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch

from comic_upscale.engines.diffusion.folder import INDEX, PipelineFolder
from comic_upscale.errors import WeightsError

_LIBRARY = "transformers"


def load_text_models(
    folder: PipelineFolder, dtype: torch.dtype, *, without: Collection[str]
) -> dict[str, Any]:
    """Return the parts of a pipeline that transformers loads, such as text encoders, by their names.

    transformers gives random numbers to weights that a file lacks, and says so in a warning only. diffusers would not
    hand on which they are.

    Args:
        folder: of the pipeline.
        dtype: of the weights in memory.
        without: parts that are not loaded.

    Raises:
        WeightsError: a file lacks weights.
        Exception: whatever transformers raises for a file that it cannot load.
    """
    index = json.loads((folder.path / INDEX).read_text(encoding="utf-8"))
    models = {}
    for part in folder.parts:
        library, name = index[part]
        kind = _model_class(name) if library == _LIBRARY and part not in without else None
        if kind is None:
            continue
        models[part], found = kind.from_pretrained(
            str(folder.path / part), torch_dtype=dtype, local_files_only=True, use_safetensors=True,
            output_loading_info=True,
        )  # fmt: skip
        _refuse(sorted(found["missing_keys"]), folder.path / part)
    return models


def check_whole(network: torch.nn.Module, path: Path) -> None:
    """Refuse a network of diffusers whose file lacks weights: these have a shape and no numbers yet.

    Raises:
        WeightsError: there are some.
    """
    named = itertools.chain(network.named_parameters(), network.named_buffers())
    _refuse([name for name, tensor in named if tensor.is_meta], path)


def check_all_whole(pipeline: Any, folder: Path) -> None:
    """Refuse a pipeline as `check_whole` refuses a network; errors as there."""
    for part, network in pipeline.components.items():
        if isinstance(network, torch.nn.Module):
            check_whole(network, folder / part)


def _refuse(missing: list[str], path: Path) -> None:
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise WeightsError(f"{path} lacks the weights {missing[0]}{more}: download it again")


def _model_class(name: str) -> Any:
    """Return a class of transformers that has weights; None for another one, such as a tokenizer."""
    import transformers

    kind = getattr(transformers, str(name), None)
    return kind if inspect.isclass(kind) and issubclass(kind, transformers.PreTrainedModel) else None
