from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import interpolate

from comic_upscale.models.network import Network, load_network
from comic_upscale.models.weights import resolve_weights
from training.checkpoint import Progress, Recipe
from training.ground_truth import draw_lettering, read_lettering, shared_pages, validation_paths
from training.objective import loss
from training.pages import draw_lettered_page
from training.patches import Patches, PatchSettings, Source, as_pixels
from training.train import begin, learning_rate, main, train_step

CPU = torch.device("cpu")


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """Two free pages and one that is for validation alone."""
    folder = tmp_path / "shared"
    (folder / "dev").mkdir(parents=True)
    entries = [("free.png", "CC0 1.0"), ("credited.jpg", "CC BY 4.0"), ("alike.png", "CC BY-SA 4.0")]
    rng = np.random.default_rng(2)
    for name, _ in entries:
        small = Image.fromarray(rng.integers(0, 256, (30, 25, 3), dtype=np.uint8))
        small.resize((500, 600), Image.Resampling.BICUBIC).save(folder / "dev" / name)
    (folder / "dev.json").write_text(
        json.dumps([{"file": name, "licence": licence} for name, licence in entries])
    )
    return folder


def _load(path: Path) -> Network:
    return load_network(resolve_weights(str(path), denoise=None, folders=[], cache=path.parent), None)


def _train(out: Path, shared: Path, **changes: object) -> dict[str, torch.Tensor]:
    options: dict[str, object] = {
        "out": out, "drawings": None, "shared": shared, "device": "cpu", "minutes": 5.0, "validate_every": 4,
        "workers": 0, "features": 8, "convolutions": 2, "steps": 8, "batch": 2, "patch": 16, "rate": 1e-3,
        "drawn": 0, "drawn_share": 0.5, "seed": 1,
    }  # fmt: skip
    main(**{**options, **changes})  # type: ignore[arg-type]
    return dict(_load(out / "weights.safetensors").module.state_dict())


def test_the_weights_load_as_any_other(tmp_path: Path, shared: Path) -> None:
    _train(tmp_path / "run", shared)
    assert _load(tmp_path / "run" / "weights.safetensors").native_scale == 3
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [4, 8]
    assert set(lines[-1]["psnr"]) == {"x2 clean", "x2 jpeg75", "x2.5 clean", "x2.5 jpeg75"}


def test_a_run_in_stretches_is_the_run_in_one(tmp_path: Path, shared: Path) -> None:
    whole = _train(tmp_path / "whole", shared)
    for _ in range(8):
        # No time at all still does one step.
        parts = _train(tmp_path / "parts", shared, minutes=0.0)
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_a_finished_run_has_nothing_to_do(tmp_path: Path, shared: Path) -> None:
    before = _train(tmp_path / "run", shared)
    log = (tmp_path / "run" / "log.jsonl").read_text()
    after = _train(tmp_path / "run", shared)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert (tmp_path / "run" / "log.jsonl").read_text() == log


def test_another_recipe_is_refused(tmp_path: Path, shared: Path) -> None:
    _train(tmp_path / "run", shared)
    with pytest.raises(SystemExit, match=r"rate 0\.001 -> 0\.002"):
        _train(tmp_path / "run", shared, rate=2e-3)


def test_a_run_can_be_made_longer(tmp_path: Path, shared: Path) -> None:
    before = _train(tmp_path / "run", shared)
    after = _train(tmp_path / "run", shared, steps=12)
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert lines[-1]["step"] == 12
    assert not all(torch.equal(before[name], after[name]) for name in before)


def test_a_deeper_network_begins_as_the_one_before(tmp_path: Path, shared: Path) -> None:
    _train(tmp_path / "first", shared)
    weights = tmp_path / "first" / "weights.safetensors"
    deeper = begin(Recipe(features=8, convolutions=5), CPU, weights).network
    page = torch.rand(1, 3, 20, 30)
    # Not to the bit: the order of the channels in memory differs, and with it that of the sums.
    torch.testing.assert_close(deeper(page), _load(weights).module(page), rtol=0, atol=1e-6)
    assert sum(isinstance(layer, torch.nn.Conv2d) for layer in deeper.body) == 7


def test_a_network_cannot_be_made_shallower(tmp_path: Path, shared: Path) -> None:
    _train(tmp_path / "first", shared)
    with pytest.raises(SystemExit, match="2 convolutions, more than 1"):
        _train(
            tmp_path / "second", shared, convolutions=1, begin_with=tmp_path / "first" / "weights.safetensors"
        )


def test_what_is_trained_on_is_cut_from_around_the_lettering(tmp_path: Path, comic_fonts: None) -> None:
    paths = draw_lettering(tmp_path, 2, seed=10, processes=1)
    cuts = read_lettering(paths, smallest_side=200)
    lettering = draw_lettered_page(10, width=640, height=960, x_height=(8 / 960, 16 / 960)).lettering
    assert len(cuts) > len(lettering) > 2
    assert all(min(cut.shape[:2]) >= 200 for cut in cuts)
    # Balloons: more white than anything, and ink on it.
    assert all((cut > 240).mean() > 0.1 and (cut < 60).any() for cut in cuts[: len(lettering)])
    assert draw_lettering(tmp_path, 2, seed=10, processes=1) == paths


def test_training_learns() -> None:
    # Against what the network starts from, the input enlarged as it is, on crisp discs.
    rows, columns = np.mgrid[:200, :200]
    disc = (np.hypot(rows % 25 - 12, columns % 25 - 12) < 8).astype(np.uint8) * 255
    recipe = Recipe(features=16, convolutions=2, steps=150, batch=4, patch=16, rate=3e-3, drawn=0)
    progress: Progress = begin(recipe, CPU)
    patches = Patches(
        [Source([np.repeat(disc[..., None], 3, axis=2)], 1.0)], PatchSettings(4, 16, 1), recipe.steps
    )
    made, enlarged = 0.0, 0.0
    for step in range(recipe.steps):
        batch = patches[step]
        value = train_step(recipe, progress, batch, CPU)
        if step >= 120:
            made += value
            nearest = interpolate(as_pixels(batch.small), scale_factor=3, mode="nearest")
            enlarged += float(loss(nearest, as_pixels(batch.truth)))
    assert made < 0.88 * enlarged


def test_the_rate_rises_then_falls() -> None:
    recipe = Recipe(steps=10_000)
    rates = [learning_rate(recipe, step) for step in range(recipe.steps)]
    peak = int(np.argmax(rates))
    assert rates[peak] == pytest.approx(recipe.rate, rel=1e-3)
    assert all(np.diff(rates[:peak]) > 0)
    assert all(np.diff(rates[peak + 1 :]) < 0)
    assert rates[-1] < 0.01 * recipe.rate


def test_validation_pages_are_never_trained_on(shared: Path) -> None:
    assert {name for name, _ in shared_pages(shared, smallest_side=48)} == {"free.png", "credited.jpg"}
    assert [path.name for path in validation_paths(shared)] == ["alike.png"]


def test_of_the_real_pages_too(comics_dir: Path) -> None:
    licences = {
        entry["file"]: entry["licence"] for entry in json.loads((comics_dir / "dev.json").read_text())
    }
    trained = {name for name, _ in shared_pages(comics_dir, smallest_side=192)}
    watched = {path.name for path in validation_paths(comics_dir)}
    assert len(trained) >= 15
    assert len(watched) >= 30
    assert not trained & watched
    assert not any("SA" in licences[name] for name in trained)
    assert all("SA" in licences[name] for name in watched)


def test_the_chart_shows_the_log(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is in the dependency group 'training'")
    from training.chart import main as draw

    log = tmp_path / "log.jsonl"
    lines = [{"step": step, "psnr": {"x2 clean": 20 + step, "x2 jpeg75": 19.5}} for step in (1, 2)]
    log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    draw(log, tmp_path / "one.svg")
    draw(log, tmp_path / "two.svg")
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()
    assert b"<svg" in (tmp_path / "one.svg").read_bytes()
