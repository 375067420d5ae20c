from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from comic_upscale.engines.base import Batch, DeviceInfo, EngineInfo, Upscaled
from comic_upscale.engines.pages import prepare, upscale_pages
from comic_upscale.errors import DeviceError, PageError
from comic_upscale.imaging.pixels import Borders, Pixels, UInt8Array


class Doubler:
    """An engine that repeats pixels, remembers what it was given, and fails at a colour."""

    info = EngineInfo(
        name="test", identity="test", device=DeviceInfo("test"), precision="fp32", native_scale=2
    )

    def __init__(self, poison: int | None = None, error: Exception | None = None) -> None:
        self.poison = poison
        self.error = error or PageError("not-finite", "poisoned")
        self.seen: list[UInt8Array] = []
        self.notes: tuple[str, ...] = ()

    def batch_limit(self, height: int, width: int) -> int:
        return 8

    def upscale(self, batch: Batch) -> Upscaled:
        self.seen.append(batch.pixels)
        if self.poison is not None and (batch.pixels == self.poison).any():
            raise self.error
        width, height = batch.target_size
        assert (height, width) == (batch.pixels.shape[1] * 2, batch.pixels.shape[2] * 2)
        larger = batch.pixels.repeat(2, axis=1).repeat(2, axis=2)
        return Upscaled(larger, Borders(rows=(height // 2,)), notes=self.notes)

    def close(self) -> None:
        """Nothing is held."""


def flat(value: int, channels: int = 3) -> UInt8Array:
    return np.full((4, 6, channels), value, np.uint8)


def left_half() -> UInt8Array:
    alpha = np.zeros((4, 6), np.uint8)
    alpha[:, :3] = 255
    return alpha


def test_pages_come_back_in_order_with_profile_and_notes() -> None:
    pages = [Pixels(flat(value), None, b"icc", (f"note {value}",)) for value in (10, 20, 30)]
    engine = Doubler()
    results = upscale_pages(engine, pages, (12, 8))
    assert len(engine.seen) == 1
    for page, result in zip(pages, results, strict=True):
        assert isinstance(result, Pixels)
        assert (result.height, result.width, result.alpha) == (8, 12, None)
        assert (result.color == page.color[0, 0, 0]).all()
        assert result.borders == Borders(rows=(4,))
        assert (result.icc_profile, result.notes) == (page.icc_profile, page.notes)


def test_a_page_without_transparency_keeps_its_colour() -> None:
    page = Pixels(flat(10))
    assert prepare(page).color is page.color
    assert prepare(page).solid is None


def test_no_pages_are_no_work() -> None:
    assert upscale_pages(Doubler(), [], (12, 8)) == []


def test_alpha_goes_through_as_gray_and_hidden_colour_does_not_show() -> None:
    color = flat(200)
    color[:, 3:] = 0
    engine = Doubler()
    (result,) = upscale_pages(engine, [prepare(Pixels(color, left_half()))], (12, 8))
    assert isinstance(result, Pixels)
    assert [pixels.shape for pixels in engine.seen] == [(1, 4, 6, 3), (1, 4, 6, 1)]
    assert (engine.seen[0] == 200).all()
    assert result.alpha is not None
    assert np.array_equal(result.alpha, left_half().repeat(2, axis=0).repeat(2, axis=1))


@pytest.mark.parametrize("value", [0, 90, 255])
def test_flat_alpha_is_filled_without_the_engine(value: int) -> None:
    pages = [Pixels(flat(10, 1), np.full((4, 6), value, np.uint8)), Pixels(flat(20, 1), left_half())]
    engine = Doubler()
    first, second = upscale_pages(engine, pages, (12, 8))
    assert isinstance(first, Pixels)
    assert isinstance(second, Pixels)
    assert first.alpha is not None
    assert first.alpha.shape == (8, 12)
    assert (first.alpha == value).all()
    assert second.alpha is not None
    assert [pixels.shape[0] for pixels in engine.seen] == [2, 1]


def test_only_the_guilty_page_fails() -> None:
    results = upscale_pages(Doubler(poison=20), [Pixels(flat(value)) for value in (10, 20, 30)], (12, 8))
    assert [type(result) for result in results] == [Pixels, PageError, Pixels]
    assert isinstance(results[1], PageError)
    assert results[1].kind == "not-finite"


def test_a_page_fails_with_its_alpha() -> None:
    poisoned = left_half()
    poisoned[0, 0] = 77
    pages = [Pixels(flat(10), left_half()), Pixels(flat(20), poisoned)]
    results = upscale_pages(Doubler(poison=77), pages, (12, 8))
    assert [type(result) for result in results] == [Pixels, PageError]


def test_a_lost_device_is_no_page_s_failure() -> None:
    with pytest.raises(DeviceError):
        upscale_pages(Doubler(20, DeviceError("gone")), [Pixels(flat(20))], (12, 8))


def test_pages_that_are_not_alike_are_refused() -> None:
    with pytest.raises(ValueError, match="one shape and type"):
        upscale_pages(Doubler(), [Pixels(flat(1)), Pixels(flat(1, 1))], (12, 8))
    with pytest.raises(ValueError, match="all alpha or none"):
        upscale_pages(Doubler(), [Pixels(flat(1)), Pixels(flat(1), left_half())], (12, 8))


def test_notes_of_the_engine_come_behind_those_of_the_page() -> None:
    engine = Doubler()
    engine.notes = ("cut into tiles", "old")
    (result,) = upscale_pages(engine, [Pixels(flat(10), left_half(), notes=("old",))], (12, 8))
    assert isinstance(result, Pixels)
    assert result.notes == ("old", "cut into tiles")


def test_a_page_of_more_pixels_than_an_engine_takes_fails_by_itself() -> None:
    engine = Doubler()
    engine.info = replace(engine.info, max_pixels=23)
    (result,) = upscale_pages(engine, [Pixels(flat(10))], (12, 8))
    assert isinstance(result, PageError)
    assert (result.kind, engine.seen) == ("too-large", [])
    engine.info = replace(engine.info, max_pixels=24)
    assert isinstance(upscale_pages(engine, [Pixels(flat(10))], (12, 8))[0], Pixels)
