"""A network of the package trained further, with heavy damage: its denoising partner."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from safetensors.torch import load_file

from training.checkpoint import FineTuning, write_weights
from training.degrade import Compression, compress, compress_off_grid, spoil
from training.fine_tune import begin, file_name, judged, main, shrinks_for, train_step
from training.ground_truth import (
    draw_even,
    draw_lettering,
    draw_pages,
    even_folder,
    read_pages,
    validation_paths,
)
from training.network import Chain, activate, activate_on_cpu
from training.objective import edge_loss, halo_loss, white_areas, white_loss
from training.on_gpu import AtFactor, gather_sources
from training.patches import SHRINKS, Batch, Patches, PatchSettings, Source
from training.validation import psnr_by_track, tracks, white_by_track

RECIPE = FineTuning(
    network="fast",
    damage="heavy",
    begun_with="",
    steps=4,
    batch=2,
    patch=16,
    rate=1e-3,
    white=0.5,
    edges=0.0,
    drawn=0,
    lettered=0,
    shared=True,
    seed=1,
)


@pytest.fixture(autouse=True)
def plain_chain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put back what a run sets for the whole process."""
    monkeypatch.setattr(Chain, "precision", Chain.precision)
    monkeypatch.setattr(Chain, "activate", staticmethod(Chain.activate))


def test_inputs_keep_the_dots_that_the_truths_do_not_have(tmp_path: Path) -> None:
    even_tones = {2.0: 120, 2.5: 140, 3.0: 160}
    line_on_white(200).save(tmp_path / "000001.png")
    boxes = PngInfo()
    boxes.add_text("lettering", "[[10, 10, 60, 60]]")
    line_on_white(200).save(tmp_path / "lettering-000001.png", pnginfo=boxes)
    for factor, level in even_tones.items():
        even_folder(tmp_path, factor).mkdir()
        for name in ("000001.png", "lettering-000001.png"):
            Image.new("RGB", (200, 200), (level,) * 3).save(
                even_folder(tmp_path, factor) / name, pnginfo=boxes
            )

    sources = gather_sources(tmp_path, tmp_path, None, smallest_side=100, even=list(even_tones))

    assert len(sources) == 2
    for source in sources:
        assert source.pages[0].max() == 255
        assert {factor: int(pages[0].max()) for factor, pages in source.even.items()} == even_tones
        assert all(pages[0].shape == source.pages[0].shape for pages in source.even.values())
    assert not any(source.even for source in gather_sources(tmp_path, tmp_path, None, smallest_side=100))


def test_even_pages_are_drawn_for_each_factor(tmp_path: Path, comic_fonts: None) -> None:
    # A page of manga, so that it has tones.
    seed = 3
    draw_pages(tmp_path, 1, seed=seed, processes=1)
    draw_lettering(tmp_path, 1, seed=seed, processes=1)
    draw_even(tmp_path, [2.0, 3.0], processes=1)
    # Whatever the folder has, so that the truths are complete.
    assert {path.name for path in even_folder(tmp_path, 3.0).iterdir()} == {
        "000003.png",
        "lettering-000003.png",
    }
    dots, twice, thrice = (
        np.asarray(Image.open(folder / "000003.png").convert("L"), float)
        for folder in (tmp_path, even_folder(tmp_path, 2.0), even_folder(tmp_path, 3.0))
    )
    # What is finer than a source of a third of the size holds is more than for one of half of it.
    steps = [float(np.abs(np.diff(page)).mean()) for page in (dots, twice, thrice)]
    assert steps[0] > steps[1] > steps[2]


def line_on_white(side: int = 96) -> Image.Image:
    page = np.full((side, side, 3), 255, np.uint8)
    page[side // 2 : side // 2 + 3] = 20
    return Image.fromarray(page)


def soiled(page: Image.Image) -> float:
    pixels = np.asarray(page)
    return float((pixels[pixels > 128] < 255).mean())


def test_heavy_damage_is_worse_than_the_usual_and_leaves_some_pages_clean() -> None:
    page = line_on_white()
    shares = {}
    for damage in ("usual", "heavy"):
        rng = np.random.default_rng(3)
        spoiled = [spoil(page, rng, damage) for _ in range(150)]  # type: ignore[arg-type]
        shares[damage] = np.mean([soiled(each) for each in spoiled])
        assert sum(each is page for each in spoiled) > 10
        assert all(each.size == page.size for each in spoiled)
    assert shares["heavy"] > 1.5 * shares["usual"]


def test_off_the_grid_the_blocks_begin_elsewhere() -> None:
    page = line_on_white()
    how = Compression("jpeg", 20, 0)
    assert np.array_equal(compress_off_grid(page, how, 0, 0), compress(page, how))
    for top in (0, 5):
        levels = np.asarray(compress_off_grid(page, how, 0, top))[:, 0, 0].astype(int)
        # The dirt fills the blocks of 8 rows that hold the line; the others are flat.
        first = int(np.flatnonzero(levels != levels[0])[0])
        assert (first + top) % 8 == 0 and first > 8


def test_patches_take_the_damage_that_is_asked_for() -> None:
    pages = [np.asarray(line_on_white(160))]
    dirt = {}
    for damage in ("usual", "heavy"):
        patches = Patches([Source(pages, 1.0, soft_share=0)], PatchSettings(40, 32, 5, damage), 3)  # type: ignore[arg-type]
        small = torch.cat([patches[number].small for number in range(3)]).float()
        dirt[damage] = float(((small > 200) & (small < 255)).float().mean())
    assert dirt["heavy"] > dirt["usual"]


def test_soft_damage_blurs_the_input_and_leaves_the_truth_crisp() -> None:
    def batches(soft_share: float) -> list[Batch]:
        source = Source([np.asarray(line_on_white(160))], 1.0, soft_share=soft_share)
        patches = Patches([source], PatchSettings(40, 32, 5, "soft"), 3)
        return [patches[number] for number in range(3)]

    found = batches(soft_share=1.0)
    for batch, crisp in zip(found, batches(soft_share=0.0), strict=True):
        assert torch.equal(batch.truth, crisp.truth), "no truth is softened"
    steps = {
        kind: torch.cat([getattr(batch, kind).float().diff(dim=-2).abs().amax((1, 2, 3)) for batch in found])
        for kind in ("small", "truth")
    }
    assert steps["small"].mean() < 0.9 * steps["truth"].mean(), "most inputs are"


def test_edges_count_by_their_steps_and_halos_by_what_the_truth_does_not_have() -> None:
    truth = torch.full((1, 3, 12, 12), 0.5)
    truth[..., 6:] = 0.75
    lighter = truth + 0.1
    assert float(edge_loss(lighter, truth)) == pytest.approx(0, abs=1e-6), "the level is not theirs"
    blurred = truth.clone()
    blurred[..., 5:7] = 0.625
    assert float(edge_loss(blurred, truth)) > 0
    assert float(halo_loss(blurred, truth)) == 0, "between the levels beside it"
    halos = truth.clone()
    halos[..., 5], halos[..., 6] = 0.4, 0.85
    assert float(halo_loss(halos, truth)) == pytest.approx(0.2 / 12, rel=1e-3)
    white = torch.ones(1, 3, 8, 8)
    assert float(halo_loss(white * 1.2, white)) == 0, "beyond white the output is cut"


def test_white_counts_where_it_is_white_all_around_and_only_if_it_falls_short() -> None:
    truth = torch.ones(1, 3, 10, 10)
    truth[..., 4, :] = 0
    assert white_areas(truth)[0, 0, :, 0].tolist() == [True] * 3 + [False] * 3 + [True] * 4
    level = 1 / 255
    assert float(white_loss(truth + level, truth)) == 0, "overshot white is white"
    assert float(white_loss(truth - 2 * level, truth)) == pytest.approx(2.5 * level, rel=1e-3)
    beside = truth.clone()
    beside[..., 3, :] = 0.5
    assert float(white_loss(beside + level, truth)) == 0, "not beside a line"
    assert float(white_loss(truth, torch.zeros_like(truth))) == 0, "no white at all"


def test_the_share_of_pure_white_is_followed() -> None:
    page = np.asarray(line_on_white(300))
    given = tracks([page], (10, 90))
    assert set(given) == {
        f"x{factor} {what}" for factor in ("2", "2.5") for what in ("clean", "jpeg10", "jpeg90")
    }
    enlarging = torch.nn.Upsample(scale_factor=3, mode="nearest")
    shares = white_by_track(enlarging, given, torch.device("cpu"))
    assert shares["x2.5 jpeg10"] < shares["x2.5 jpeg90"] <= 1


@pytest.mark.parametrize("one_slope", [True, False])
def test_the_activation_for_a_cpu_is_the_same(one_slope: bool) -> None:
    torch.manual_seed(1)
    made, shortcut = torch.randn(2, 6, 5, 5), torch.randn(2, 6, 5, 5)
    bias, slope = torch.randn(6), torch.full((6,), 0.2)
    if not one_slope:
        slope = torch.rand(6, requires_grad=True)
    for beside in (None, shortcut):
        assert torch.allclose(
            activate_on_cpu(made, bias, slope, beside), activate(made, bias, slope, beside), atol=1e-6
        )


@pytest.mark.parametrize(
    ("network", "damage", "name"),
    [
        ("best", "heavy", "comic-best-x2-dn"), ("best", "soft", "comic-best-x2-crisp"),
        ("best", "usual", "comic-best-x2"), ("crisp", "soft", "comic-crisp-x2"),
        ("crisp", "heavy", "comic-crisp-x2-dn"),
    ],
)  # fmt: skip
def test_files_are_called_after_network_and_damage(network: str, damage: str, name: str) -> None:
    recipe = replace(RECIPE, network=network, damage=damage)  # type: ignore[arg-type]
    assert file_name(recipe, 2) == f"{name}.safetensors"


def test_one_head_alone_gets_the_factors_that_it_is_asked_at() -> None:
    assert shrinks_for(None) == SHRINKS
    assert [factor for factor, _ in shrinks_for(2)] == [2.0]
    assert [factor for factor, _ in shrinks_for(3)] == [2.5, 3.0]
    source = Source([np.asarray(line_on_white(160))], 1.0)
    patches = Patches([source], PatchSettings(1, 16, 1, "usual", shrinks_for(3)), 40)
    sides = [patches[number].truth.shape[-1] for number in range(40)]
    assert set(sides) == {40, 48} and sides.count(40) > sides.count(48)


def test_a_head_that_is_trained_alone_is_judged_by_its_own_tracks() -> None:
    scores = {"x2 clean": 1.0, "x2 jpeg30": 2.0, "x2.5 clean": 3.0, "x2.5 jpeg30": 4.0, "x2.5 jpeg75": 5.0}
    assert judged(scores, None) == [2.0, 4.0, 5.0]
    assert judged(scores, 2) == [2.0]
    assert judged(scores, 3) == [4.0, 5.0]


def weights_folder(folder: Path) -> Path:
    """Write tiny networks as if they were those of the package."""
    torch.manual_seed(4)
    chain = Chain(8, 2, (2, 3), one_slope=True)
    folder.mkdir()
    for factor in (2, 3):
        write_weights(folder / f"comic-fast-x{factor}.safetensors", chain.plain(factor), {})
    return folder


def test_a_step_trains_both_heads_from_the_weights_that_it_begins_with(tmp_path: Path) -> None:
    folder = weights_folder(tmp_path / "begin")
    weights = {factor: load_file(folder / f"comic-fast-x{factor}.safetensors") for factor in (2, 3)}
    progress = begin(RECIPE, weights)
    network = progress.network
    assert isinstance(network, Chain)
    for factor in (2, 3):
        for name, value in network.plain(factor).items():
            torch.testing.assert_close(value, weights[factor][name])
    patches = Patches([Source([np.asarray(line_on_white(160))], 1.0)], PatchSettings(2, 16, 1, "heavy"), 12)
    factors = {patches[number].truth.shape[-1] for number in range(12)}
    assert {32, 40} <= factors, "both heads had a turn"
    for number in range(12):
        train_step(RECIPE, progress, patches[number])
    for factor in (2, 3):
        assert not torch.equal(network.plain(factor)["body.6.weight"], weights[factor]["body.6.weight"])
    assert torch.equal(network.plain(2)["body.1.weight"], weights[2]["body.1.weight"]), "the one slope stays"


def test_the_command_continues_and_leaves_a_partner_for_each_factor(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    (shared / "dev").mkdir(parents=True)
    entries = [("free.png", "CC0 1.0"), ("alike.png", "CC BY-SA 4.0")]
    for name, _ in entries:
        line_on_white(260).save(shared / "dev" / name)
    (shared / "dev.json").write_text(
        json.dumps([{"file": name, "licence": licence} for name, licence in entries])
    )
    begin_with = weights_folder(tmp_path / "begin")

    def run(steps: int, damage: str = "heavy", out: str = "out", only: int | None = None) -> None:
        main(
            out=tmp_path / out,
            network="fast",
            begin_with=begin_with,
            damage=damage,
            drawings=None,
            shared=shared,
            minutes=5,
            validate_every=2,
            watch=1,
            workers=0,
            steps=steps,
            batch=2,
            patch=16,
            rate=1e-3,
            white=0.5,
            edges=0.0,
            even=False,
            only=only,
            reach=0.5,
            drawn=0,
            lettered=0,
            seed=1,
        )

    run(2)
    run(4)
    lines = [json.loads(line) for line in (tmp_path / "out" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [0, 2, 4]
    assert set(lines[0]["psnr"]) == {
        f"x{factor} {what}" for factor in ("2", "2.5") for what in ("clean", "jpeg30", "jpeg50", "jpeg75")
    }
    for factor in (2, 3):
        partner = load_file(tmp_path / "out" / f"comic-fast-x{factor}-dn.safetensors")
        base = load_file(begin_with / f"comic-fast-x{factor}.safetensors")
        assert {name: value.shape for name, value in partner.items()} == {
            name: value.shape for name, value in base.items()
        }
        assert all(value.dtype == torch.float16 for value in partner.values())
    # Half of the way is written, and the checkpoint has the whole.
    state = torch.load(tmp_path / "out" / "checkpoint.pt", weights_only=True)
    trained, begun = (
        state["average"]["module.heads.2.bias"],
        load_file(begin_with / "comic-fast-x2.safetensors"),
    )
    written = load_file(tmp_path / "out" / "comic-fast-x2-dn.safetensors")
    halfway = begun["body.6.bias"].lerp(trained, 0.5)
    if lines[-1]["mean"] >= lines[-2]["mean"]:
        torch.testing.assert_close(written["body.6.bias"].float(), halfway, atol=1e-4, rtol=1e-2)
    with pytest.raises(SystemExit, match="made with another recipe"):
        run(6, damage="usual")
    # One from before an option was added goes on, as with its default.
    del state["recipe"]["edges"]
    torch.save(state, tmp_path / "out" / "checkpoint.pt")
    run(6)
    assert json.loads((tmp_path / "out" / "log.jsonl").read_text().splitlines()[-1])["step"] == 6
    run(2, out="alone", only=3)
    (alone,) = (tmp_path / "alone").glob("*.safetensors")
    assert alone.name == "comic-fast-x3-dn.safetensors"
    # Then the two have different layers, and are trained one by one.
    alone.replace(begin_with / "comic-fast-x3.safetensors")
    with pytest.raises(SystemExit, match="--only 2 or --only 3"):
        run(2, out="both")
    for factor in (2, 3):
        out = tmp_path / f"further-{factor}"
        run(2, out=out.name, only=factor)
        further = load_file(out / f"comic-fast-x{factor}-dn.safetensors")
        before = load_file(begin_with / f"comic-fast-x{factor}.safetensors")
        change = max(float((further[name].float() - before[name].float()).abs().max()) for name in before)
        assert 0 < change < 0.02, "it goes on from the layers of its own"
    weights_folder(tmp_path / "same")
    for path in (tmp_path / "same").iterdir():
        path.replace(begin_with / path.name)
    with pytest.raises(SystemExit, match="2 or 3, not 4"):
        run(2, out="neither", only=4)
    # What is logged are the scores of the files, not those of the whole way.
    run(4, damage="soft", out="soft")
    written_network = Chain(8, 2, (2, 3), one_slope=True)
    written_network.load_plain(
        {
            factor: load_file(tmp_path / "soft" / f"comic-fast-x{factor}-crisp.safetensors")
            for factor in (2, 3)
        }
    )
    watched = tracks(read_pages(validation_paths(shared)), (30, 50, 75))
    scores = psnr_by_track(AtFactor(written_network), watched, torch.device("cpu"))
    logged = json.loads((tmp_path / "soft" / "log.jsonl").read_text().splitlines()[-1])["psnr"]
    assert logged == pytest.approx(scores, abs=6e-4)
