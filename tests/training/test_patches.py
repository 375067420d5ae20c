from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional

from training.objective import loss, shrink_to
from training.patches import SHRINKS, Patches, PatchSettings, Source, as_pixels, batches


def _pages(count: int = 2) -> list[np.ndarray]:
    from PIL import Image

    rng = np.random.default_rng(7)
    return [
        np.asarray(
            Image.fromarray(rng.integers(0, 256, (20, 24, 3), dtype=np.uint8)).resize(
                (120, 100), Image.Resampling.BICUBIC
            )
        )
        for _ in range(count)
    ]


SETTINGS = PatchSettings(batch=3, patch=16, seed=4)


def _patches(steps: int = 12, first: int = 0) -> Patches:
    return Patches([Source(_pages(), 0.5), Source(_pages(1), 0.5)], SETTINGS, steps, first)


def test_sizes_and_range() -> None:
    patches = _patches()
    sides = set()
    for index in range(12):
        small, truth = patches[index]
        assert small.shape == (3, 3, 16, 16)
        assert small.dtype == truth.dtype == torch.uint8
        assert truth.shape[:2] == (3, 3)
        sides.add(truth.shape[-1])
    assert sides == {round(16 * factor) for factor, _ in SHRINKS}


def test_a_batch_is_a_function_of_its_number() -> None:
    going_on = list(batches(_patches(first=5), workers=0))
    assert len(going_on) == 7
    for index, batch in enumerate(going_on, start=5):
        again = _patches()[index]
        assert torch.equal(batch.small, again.small)
        assert torch.equal(batch.truth, again.truth)
    assert not torch.equal(going_on[0].small, going_on[1].small)


def test_other_processes_make_the_same_batches() -> None:
    here, there = list(batches(_patches(4), workers=0)), list(batches(_patches(4), workers=1))
    assert all(
        torch.equal(a.small, b.small) and torch.equal(a.truth, b.truth)
        for a, b in zip(here, there, strict=True)
    )


def test_input_and_truth_show_the_same_place() -> None:
    # Shrunk by any kernel, the truth is nearer to its own input than to one moved by a pixel.
    patches = _patches(30)
    for index in range(30):
        small, truth = map(as_pixels, patches[index])
        again = shrink_to(truth, 16)
        inside = (slice(None), slice(None), slice(2, -2), slice(2, -2))
        here = (again - small)[inside].abs().mean()
        moved = min(
            (torch.roll(again, step, dims) - small)[inside].abs().mean()
            for step in (1, -1)
            for dims in (2, 3)
        )
        assert here < 0.8 * moved


def test_the_shrink_of_training_is_that_of_the_program() -> None:
    from comic_upscale.engines.torch.resample import resample

    # Away from black and white, where the program cuts what overshoots between its passes.
    pixels = torch.rand(1, 3, 48, 48, generator=torch.Generator().manual_seed(1)) * 0.4 + 0.3
    made = resample(pixels, source_size=(48, 48), target_size=(40, 40))
    assert torch.allclose(shrink_to(pixels, 40), made, atol=1e-5)


def test_no_difference_is_no_loss_and_luma_counts_more_than_chroma() -> None:
    truth = torch.rand(1, 3, 8, 8) * 0.5
    assert loss(truth, truth) == 0
    brighter = truth + 0.1
    other_colour = truth + torch.tensor([0.1, -0.1 * 0.299 / 0.587, 0.0])[None, :, None, None]
    assert loss(brighter, truth) > 2 * loss(other_colour, truth)


def test_truths_may_be_other_pages_than_the_inputs_are_made_of() -> None:
    # Dots above and black below; or an even tone above.
    dots, even = np.zeros((120, 120, 3), np.uint8), np.zeros((120, 120, 3), np.uint8)
    dots[:59:2, ::2], even[:59] = 255, 64
    source = Source([dots], 1.0, soft_share=0.0, even={2.0: [even], 2.5: [even]})
    plain = Source([dots], 1.0, soft_share=0.0)
    with_even, without = Patches([source], SETTINGS, 40), Patches([plain], SETTINGS, 40)
    replaced = 0
    for index in range(40):
        (small, truth), (same_small, dotted) = with_even[index], without[index]
        assert torch.equal(small, same_small), "the input keeps its dots"
        if truth.shape[-1] == 48:
            assert torch.equal(truth, dotted), "no page of this factor"
            continue
        replaced += 1
        black = functional.avg_pool2d(dotted.float(), 4) < 1
        assert black.equal(functional.avg_pool2d(truth.float(), 4) < 1), "cut at the same place, turned alike"
    assert replaced > 20


def test_a_source_says_whether_its_truths_are_turned_and_softened() -> None:
    # Light above, dark below: seen from any other side, the gradient points elsewhere.
    page = np.repeat(np.linspace(200, 50, 120, dtype=np.uint8)[:, None, None], 120, axis=1)
    page = np.repeat(page, 3, axis=2)
    as_it_is = Patches([Source([page], 1.0, soft_share=0.0, turned=False)], SETTINGS, 12)
    any_way = Patches([Source([page], 1.0, soft_share=0.0)], SETTINGS, 12)

    def upright(patches: Patches) -> list[bool]:
        """Whether the rows of a truth are each of one level, so that it lies as the page does, or on its head."""
        truths = (truth for index in range(12) for truth in as_pixels(patches[index].truth))
        return [bool((truth - truth[..., :1]).abs().max() == 0) for truth in truths]

    assert all(upright(as_it_is))
    assert {True, False} == set(upright(any_way))

    noise = np.random.default_rng(1).integers(0, 256, (120, 120, 3), dtype=np.uint8)

    def contrast(soft_share: float) -> float:
        patches = Patches([Source([noise], 1.0, soft_share=soft_share)], SETTINGS, 4)
        return float(torch.cat([as_pixels(patches[index].truth).flatten() for index in range(4)]).std())

    assert contrast(1.0) < 0.8 * contrast(0.0)
