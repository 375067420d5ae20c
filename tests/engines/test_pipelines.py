"""The tiles of other pipelines of diffusers, loaded from their folders: SDXL, Z-Image, Qwen-Image."""

# ruff: noqa: E402

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.engines.test_flux import LACKING

if LACKING:
    pytest.skip(f"the extra [flux] is not installed: {', '.join(LACKING)}", allow_module_level=True)
pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("one_thread")]

from comic_upscale.engines import registry
from comic_upscale.engines.base import Batch, EnginePart, follow
from comic_upscale.engines.diffusion.engine import DiffusionEngine
from comic_upscale.engines.diffusion.noise import NoiseField
from comic_upscale.engines.feathering import Window
from comic_upscale.gate.seams import worst_seam
from comic_upscale.settings.job import JobSettings
from tests.engines.tiny_pipelines import make_qwen_image, make_sdxl, make_z_image


@pytest.mark.parametrize("write", [make_sdxl, make_z_image, make_qwen_image])
def test_a_pipeline_of_another_kind_draws_in_tiles_without_a_seam(
    make_flux_job: Callable[..., JobSettings],
    tmp_path: Path,
    write: Callable[[Path], dict[str, object]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = make_flux_job(keep_lettering=False, **write(tmp_path / "pipeline"))
    (engine,) = registry.open_engines(settings, registry.prepare_engine(settings))
    assert isinstance(engine, DiffusionEngine)
    told: list[EnginePart] = []
    follow(engine, told.append)
    ramp = np.linspace(80, 170, 50, dtype=np.float32)
    source = np.repeat((ramp[None, :, None] + ramp[:30, None, None] / 4), 3, axis=2).astype(np.uint8)
    batch = Batch(source[None], (100, 61))
    taken, original = Counter[int](), NoiseField.cut

    def cut(self: NoiseField, shape: tuple[int, ...], window: Window, purpose: int = 0) -> torch.Tensor:
        taken[purpose] += 1
        return original(self, shape, window, purpose)

    monkeypatch.setattr(NoiseField, "cut", cut)
    made, again = engine.upscale(batch), engine.upscale(batch)
    assert made.pixels.shape == (1, 61, 100, 3) and np.array_equal(made.pixels, again.pixels)
    assert made.borders.columns and {part.total for part in told} == {len(made.borders.columns) + 1}
    assert taken[0] == 2 * (len(made.borders.columns) + 1), "the noise of each tile is a part of the page's"
    assert worst_seam(source, made.pixels[0], made.borders) < 1.2
    assert np.abs(made.pixels.astype(int) - engine._first.upscale(batch).pixels).mean() > 1, "it draws"
    engine.close()
