"""spandrel without torchvision: a run starts sooner, and all that spandrel has still works."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.conftest import REPOSITORY

HEAVY = ("torchvision", "torch._dynamo", "sympy")
"""Each takes about a second or more to import, and no page needs any."""


def python(code: str, *words: object) -> str:
    ended = subprocess.run(
        [sys.executable, "-c", code, *map(str, words)], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_a_page_is_upscaled_without_what_is_slow_to_import(tiny_weights: Path) -> None:
    code = f"""
import sys
from PIL import Image
from comic_upscale import Upscaler
with Upscaler(sys.argv[1], device="cpu") as upscaler:
    upscaler.upscale(Image.new("RGB", (30, 40)), scale=2.0)
print([name for name in {HEAVY} if name in sys.modules])
"""
    assert python(code, tiny_weights) == "[]\n"


def test_what_spandrel_takes_from_torchvision_is_imported_when_it_is_used() -> None:
    code = """
import sys
import torch
from comic_upscale.models.architectures import spandrel
from spandrel.architectures.LaMa.__arch import LaMa
from spandrel.architectures.RestoreFormer import tv_normalize
assert "torchvision" not in sys.modules
image = torch.rand(3, 5, 7)
ours = [LaMa.rotate(image, 90.0, LaMa.InterpolationMode.NEAREST, expand=True), tv_normalize(image, [0.5], [2.0])]
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import normalize, rotate
real = [rotate(image, 90.0, InterpolationMode.NEAREST, expand=True), normalize(image, [0.5], [2.0])]
print(all(map(torch.equal, ours, real)), LaMa.InterpolationMode.BILINEAR is InterpolationMode.BILINEAR)
"""
    assert python(code) == "True True\n"


def test_a_version_that_needs_more_of_torchvision_is_imported_in_the_ordinary_way(tmp_path: Path) -> None:
    package = tmp_path / "spandrel"
    for name in ("Compact", "ESRGAN"):
        (package / "architectures" / name).mkdir(parents=True)
        (package / "architectures" / name / "__init__.py").write_text(f"class {name}: pass\n")
    (package / "__init__.py").write_text("from torchvision.ops import nms\n")
    code = """
import sys
sys.path.insert(0, sys.argv[1])
from comic_upscale.models.architectures import Compact, spandrel
print(spandrel.__file__.startswith(sys.argv[1]), callable(spandrel.nms), Compact.__name__)
"""
    assert python(code, tmp_path) == "True True Compact\n"
