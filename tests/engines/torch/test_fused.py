"""The fused kernels: their results, in Triton's interpreter, and that they compile for GPUs, without one."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY


def _triton_release() -> tuple[int, ...]:
    """Return the first two numbers of Triton's version, or nothing; without importing it."""
    try:
        found = version("triton")
    except PackageNotFoundError:
        return ()
    return tuple(int(part) for part in found.split(".")[:2])


_TRITON = _triton_release()

pytestmark = pytest.mark.skipif(not _TRITON, reason="Triton is not installed: it comes with torch on Linux")

_CASES = REPOSITORY / "tests" / "engines" / "torch" / "fused_cases.py"
_COMPILE = """
import sys
from comic_upscale.engines.torch import kernels
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
import triton

SHAPES = {
    "activate": dict(channels=32, common=32, block=2048),
    "join": dict(
        **{f"width_{i}": width for i, width in enumerate((192, 160, 128, 96, 0))},
        ahead=96, channels=32, residuals=0, common=32, block=2048,
    ),
    "join residuals": dict(
        **{f"width_{i}": width for i, width in enumerate((192, 160, 128, 96, 64))},
        ahead=64, channels=64, residuals=2, common=64, block=2048,
    ),
    "enlarge": dict(channels=64, factor=2, adds=False, block=2048),
    "shuffle": dict(depth=32, channels=3, factor=3, adds=True, block=512),
    "across": dict(channels=3, mixed=1, taps=8, lines=8, block=128),
    "down": dict(channels=3, taps=8, lines=8, block=128),
}
WHOLE = {"total": "i64", "scale": "fp32", **dict.fromkeys(("middle", "weights", "marks"), "*fp32"), "first": "*i32"}
WHOLE |= dict.fromkeys(("count", "rows", "columns", "wide", "tall"), "i32")
BYTES = {"across": "*fp32", "down": "*u8"}
CHOSEN = ((75, "fp16", ["activate", "join"]), (80, "bf16", ["join residuals"]), (90, "fp16", SHAPES))
for capability, number, chosen in CHOSEN:
    for name in chosen:
        constants = SHAPES[name]
        kernel = getattr(kernels, "_" + name.split()[0])
        names = kernel.arg_names
        types = {each: "constexpr" if each in constants else WHOLE.get(each, "*" + number) for each in names}
        if name in BYTES:
            types["out"] = BYTES[name]
        # As for a launch with pages of 512 columns: aligned memory, and sizes that are multiples of 16.
        aligned = {(i,): [["tt.divisibility", 16]] for i, each in enumerate(names)
                   if types[each].startswith(("*", "i"))}
        source = ASTSource(kernel, types, {(names.index(key),): value for key, value in constants.items()}, aligned)
        ptx = triton.compile(source, target=GPUTarget("cuda", capability, 32)).asm["ptx"]
        loads = [line for line in ptx.splitlines() if "ld.global" in line]
        print(name.replace(" ", "-"), capability, len(loads), sum(".v4." in line for line in loads))
"""


def _run(arguments: list[str], tmp_path: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=REPOSITORY,
        env={**os.environ, "TRITON_CACHE_DIR": str(tmp_path / "triton"), **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_kernels_are_right_in_the_interpreter(tmp_path: Path) -> None:
    found = _run(
        ["-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", str(_CASES)],
        tmp_path,
        TRITON_INTERPRET="1",
    )
    assert found.returncode == 0, found.stdout[-8000:] + found.stderr[-2000:]
    assert " passed" in found.stdout and "skipped" not in found.stdout


@pytest.mark.skipif(_TRITON < (3, 4), reason="the compiler of older releases is called in another way")
def test_the_kernels_compile_for_gpus_and_read_whole_vectors(tmp_path: Path) -> None:
    found = _run(["-c", _COMPILE], tmp_path, TRITON_INTERPRET="0")
    assert found.returncode == 0, found.stderr[-4000:]
    lines = [line.split() for line in found.stdout.splitlines()]
    assert len(lines) == 10
    for name, capability, loads, vectors in lines:
        assert int(loads) > 0
        # These gather single numbers: neighbours in the result are apart in the channels, or in the page.
        if name in ("shuffle", "across"):
            continue
        # Beside vectors, the last one reads one weight for each row.
        assert int(vectors) > 0 if name == "down" else loads == vectors, (
            f"{name} for sm_{capability} reads number by number"
        )
