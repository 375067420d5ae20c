"""Training on a GPU, rehearsed on a CPU: the network, its optimizer, its loss, and the whole command."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from spandrel.architectures.Compact import Compact

from comic_upscale.models.network import load_network
from comic_upscale.models.weights import resolve_weights
from training.muon import Muon, orthogonal
from training.network import Chain
from training.objective import loss, patch_loss
from training.on_gpu import Feed, main
from training.patches import Patches, PatchSettings, Source


@pytest.mark.parametrize("factor", [2, 3])
def test_the_plain_form_of_a_chain_makes_the_same_pixels(factor: int) -> None:
    torch.manual_seed(1)
    chain = Chain(8, 3, (2, 3), one_slope=False)
    with torch.no_grad():
        for values in chain.parameters():
            values.add_(torch.randn_like(values), alpha=0.05)
    plain = Compact(num_feat=8, num_conv=3, upscale=factor)
    plain.load_state_dict(chain.plain(factor))
    small = torch.rand(2, 3, 12, 10)
    assert torch.allclose(plain(small), chain(small, factor), atol=1e-5)


def test_a_chain_takes_over_its_plain_form() -> None:
    torch.manual_seed(1)
    trained, other = (Chain(8, 3, (2, 3), one_slope=False) for _ in range(2))
    with torch.no_grad():
        for values in trained.parameters():
            values.add_(torch.randn_like(values), alpha=0.05)
    other.load_plain({factor: trained.plain(factor) for factor in (2, 3)})
    small = torch.rand(2, 3, 12, 10)
    for factor in (2, 3):
        assert torch.allclose(other(small, factor), trained(small, factor), atol=1e-5)


def test_a_chain_refuses_the_weights_of_other_networks() -> None:
    chain, deeper, twin = (Chain(8, count, (2, 3), one_slope=False) for count in (3, 4, 3))
    with pytest.raises(ValueError):
        chain.load_plain({factor: deeper.plain(factor) for factor in (2, 3)})
    with pytest.raises(ValueError, match="do not have the same"):
        chain.load_plain({2: chain.plain(2), 3: twin.plain(3)})


def test_half_precision_trains_and_float32_validates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Chain, "precision", torch.float16)
    torch.manual_seed(1)
    chain = Chain(8, 3, (2,), one_slope=False)
    small = torch.rand(1, 3, 12, 10)
    half = chain(small, 2)
    chain.eval()
    exact = chain(small, 2)
    assert 0 < float((half - exact).detach().abs().max()) < 0.01
    plain = Compact(num_feat=8, num_conv=3, upscale=2)
    plain.load_state_dict(chain.plain(2))
    assert torch.allclose(plain(small), exact, atol=1e-5)


def test_an_inner_layer_without_weights_hands_its_input_on() -> None:
    chain = Chain(8, 1, (2,), one_slope=False)
    with torch.no_grad():
        chain.inner.zero_()
    kernel = chain.plain(2)["body.2.weight"]
    assert torch.equal(kernel, torch.nn.init.dirac_(torch.empty_like(kernel)))


def test_one_slope_stays_one_slope() -> None:
    chain = Chain(8, 3, (2,), one_slope=True)
    assert not chain.slopes.requires_grad
    slopes = [chain.plain(2)[f"body.{number}.weight"] for number in (1, 3, 5, 7)]
    assert torch.cat(slopes).unique().numel() == 1


def test_a_step_of_muon_is_orthogonal_and_of_adams_size() -> None:
    torch.manual_seed(1)
    for matrices in (torch.randn(4, 16, 144), torch.randn(2, 8, 72) * 1e-6):
        values = torch.linalg.svdvals(orthogonal(matrices))
        assert float(values.min()) > 0.6 and float(values.max()) < 1.3
    kernels = torch.nn.Parameter(torch.zeros(4, 16, 16, 3, 3))
    optimizer = Muon([kernels], lr=1.0)
    (kernels * torch.randn_like(kernels)).sum().backward()
    optimizer.step()
    assert 0.1 < float(kernels.detach().square().mean().sqrt()) < 0.3


def test_where_half_of_the_truth_is_black_the_square_asks_for_gray_and_the_difference_for_no_gray() -> None:
    # Screentone too fine for the input: two thirds of its pixels are white, one third black.
    truth = torch.ones(1, 3, 12, 12)
    truth[..., ::3] = 0.0
    levels = [torch.full_like(truth, level / 30) for level in range(31)]
    assert min(levels, key=lambda made: float(patch_loss(made, truth))).mean() == pytest.approx(
        2 / 3, abs=0.02
    )
    assert min(levels, key=lambda made: float(loss(made, truth))).mean() == pytest.approx(1.0, abs=0.02)


def test_a_patch_counts_by_its_root() -> None:
    truth = torch.zeros(2, 3, 6, 6)
    made = truth.clone()
    made[0] += 0.1
    calm = float(patch_loss(truth, truth))
    # Twice the error is twice the loss, however small it was, and each patch counts alike.
    single, double = (float(patch_loss(made * factor, truth)) for factor in (1, 2))
    assert double - calm == pytest.approx(2 * (single - calm), rel=0.05)


def test_the_command_leaves_a_network_for_each_factor(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    (shared / "dev").mkdir(parents=True)
    rng = np.random.default_rng(2)
    entries = [("free.webp", "CC0 1.0"), ("alike.png", "CC BY-SA 4.0")]
    for name, _ in entries:
        small = Image.fromarray(rng.integers(0, 256, (30, 25, 3), dtype=np.uint8))
        small.resize((250, 300), Image.Resampling.BICUBIC).save(shared / "dev" / name, lossless=True)
    described = [{"file": name, "licence": licence} for name, licence in entries]
    (shared / "dev.json").write_text(json.dumps(described))
    out = tmp_path / "out"
    main(
        out=out,
        minutes=0.01,
        shared=shared,
        workers=0,
        batch=2,
        patch=16,
        small=True,
        drawings=None,
        clips=None,
    )
    further = tmp_path / "further"
    begin = tmp_path / "begin"
    begin.mkdir()
    for path in out.glob("*.safetensors"):
        (begin / f"comic-{path.name}").write_bytes(path.read_bytes())
    main(
        out=further,
        minutes=0.01,
        shared=shared,
        workers=0,
        batch=2,
        patch=16,
        small=True,
        drawings=None,
        clips=None,
        begin_with=begin,
    )
    first = json.loads((further / "log.jsonl").read_text().splitlines()[0])
    assert first["begun_with"].endswith("comic-best-x{factor}.safetensors")
    for name in ("best", "fast"):
        for factor in (2, 3):
            path = out / f"{name}-x{factor}.safetensors"
            weights = resolve_weights(str(path), denoise=None, folders=[], cache=out)
            assert load_network(weights, None).native_scale == factor
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert {line["name"] for line in lines} == {"best", "fast"}
    assert set(lines[-1]["psnr"]) == {"x2 clean", "x2 jpeg75", "x2.5 clean", "x2.5 jpeg75"}


def test_a_picture_that_cannot_be_cut_ends_the_training_and_does_not_hang_it() -> None:
    small = [np.zeros((20, 20, 3), dtype=np.uint8)]
    feed = Feed(Patches([Source(small, 1.0)], PatchSettings(1, 16, 1), 9), torch.device("cpu"), workers=0)
    with pytest.raises(ValueError):
        feed.next()
    feed.stop()
