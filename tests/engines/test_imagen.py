"""Imagen, against a server on localhost that checks what the real one checks."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import requests
from PIL import Image

pytest.importorskip("google.auth", reason="the extra [imagen] is not installed")

from comic_upscale.costs.spending import Spending
from comic_upscale.engines import registry
from comic_upscale.engines.base import Batch, charge
from comic_upscale.engines.imagen.client import _FIRST_PAUSE, FAILED, REFUSED, _retry_after
from comic_upscale.errors import DeviceError, PageError, SettingsError
from comic_upscale.gate.seams import worst_seam
from comic_upscale.jobs.run import run_job
from comic_upscale.ledger.status import read_status
from comic_upscale.settings.job import JobSettings
from tests.conftest import MakeJob
from tests.engines.conftest import open_engine
from tests.engines.drawn_pages import draw_page, draw_pages
from tests.engines.fake_imagen import PRICE, FakeHandler, FakeImagen

MakeImagen = Callable[..., JobSettings]


@pytest.fixture
def make(make_imagen: MakeImagen) -> MakeImagen:
    return make_imagen


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses that the engine makes; none of them lasts."""
    waited: list[float] = []

    class Stopped:
        def wait(self, seconds: float) -> bool:
            waited.append(seconds)
            return False

        def is_set(self) -> bool:
            return False

        def set(self) -> None:
            pass

    monkeypatch.setattr("comic_upscale.engines.imagen.engine.Event", Stopped)
    return waited


def png_of(width: int, height: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, height)).save(file, "PNG")
    return file.getvalue()


# What the service is sent, and what comes of its answers


@pytest.mark.parametrize(
    "text",
    ["²", "9" * 400, "soon", "", "Fri, 31 Dec 9999 23:59:59 -9999", f"Fri, 31 Dec {10**30} 23:59:59 +0000"],
)
def test_a_strange_time_to_wait_is_none(text: str) -> None:
    response = requests.Response()
    response.headers["Retry-After"] = text
    waited = _retry_after(response)
    assert waited is None or 0 <= waited < 1e12


@pytest.mark.parametrize(
    ("target", "factor"),
    [((60, 80), "x2"), ((61, 82), "x3"), ((90, 120), "x3"), ((111, 148), "x4"), ((180, 240), "x4")],
)
def test_the_smallest_factor_that_is_enough_and_then_the_exact_size(
    fake: FakeImagen, make: MakeImagen, target: tuple[int, int], factor: str
) -> None:
    page = draw_pages(1, 40, 30)
    made = open_engine(make()).upscale(Batch(page, target))
    assert made.pixels.shape == (1, target[1], target[0], 3)
    assert fake.calls == [(30, 40, factor)]
    expected = np.asarray(Image.fromarray(page[0]).resize(target, Image.Resampling.BILINEAR), float)
    assert np.abs(made.pixels[0] - expected).mean() < 12
    assert (target[0] > 120) == any("resampling did the rest" in note for note in made.notes)


def test_a_large_page_goes_in_tiles_and_shows_no_seam(fake: FakeImagen, make: MakeImagen) -> None:
    height, width = 3508, 2480
    ramp = np.linspace(60, 200, width, dtype=np.float32)[None, :, None]
    page = np.broadcast_to(ramp, (height, width, 1)).astype(np.uint8)
    # A model that never draws alike: each tile is lighter than the one before.
    fake.tones = [0, 12, 24]
    made = open_engine(make()).upscale(Batch(page[None], (width * 2, height * 2)))
    assert made.pixels.shape == (1, height * 2, width * 2, 1)
    assert len(fake.calls) == fake.billed == 3
    quoted = registry.count_calls(make(), [((width, height), (width * 2, height * 2))])
    assert quoted is not None and (quoted.count, quoted.dollars) == (3, pytest.approx(3 * PRICE))
    assert all(w * h * 4 <= 17_000_000 for w, h, _ in fake.calls)
    assert len(made.borders.rows) + len(made.borders.columns) == 2
    seam = worst_seam(page, made.pixels[0], made.borders)
    assert seam < 0.5
    # The same three tones without blending are a seam.
    cut = made.pixels[0].astype(int)
    for place in made.borders.rows:
        cut[place:] += 12
    assert worst_seam(page, np.clip(cut, 0, 255).astype(np.uint8), made.borders) > 3


def test_a_tile_of_too_many_bytes_is_cut_further(
    fake: FakeImagen, make: MakeImagen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("comic_upscale.engines.imagen.engine.MOST_INPUT_BYTES", 40_000)
    noise = np.random.default_rng(1).integers(0, 255, (1, 150, 150, 3), np.uint8)
    engine = open_engine(make(overlap=16))
    made = engine.upscale(Batch(noise, (300, 300)))
    assert len(fake.calls) > 1 and made.pixels.shape == (1, 300, 300, 3)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_gray_and_16_bits_come_back_as_they_went(make: MakeImagen, kind: type[np.generic]) -> None:
    page = draw_pages(1, 40, 30, 1, kind)
    made = open_engine(make()).upscale(Batch(page, (60, 80)))
    assert made.pixels.shape == (1, 80, 60, 1) and made.pixels.dtype == kind
    assert abs(made.pixels.mean() - page.mean()) < 0.03 * np.iinfo(kind).max  # type: ignore[type-var]


# Its errors

SMALL = base64.b64encode(png_of(59, 80)).decode()
BUSY = {"error": {"code": 429, "message": "Quota exceeded", "status": "RESOURCE_EXHAUSTED"}}


def test_a_busy_service_is_asked_again_when_it_says(
    fake: FakeImagen, make: MakeImagen, pauses: list[float]
) -> None:
    fake.planned = [(429, BUSY, {"Retry-After": "17"}), (429, BUSY, {}), (503, b"<html>busy</html>", {})]
    engine, spending = open_engine(make()), Spending(0.0)
    charge(engine, spending)
    engine.upscale(Batch(draw_pages(1, 40, 30), (60, 80)))
    assert pauses == [17, 2 * _FIRST_PAUSE, 4 * _FIRST_PAUSE]
    assert fake.billed == 1 and spending.spent() == pytest.approx(PRICE)


def test_half_an_answer_is_paid_for_and_asked_for_again(
    fake: FakeImagen, make: MakeImagen, pauses: list[float]
) -> None:
    fake.planned = [FakeHandler.half_answer]
    engine, spending = open_engine(make()), Spending(0.0)
    charge(engine, spending)
    engine.upscale(Batch(draw_pages(1, 40, 30), (60, 80)))
    assert fake.billed == 2 and spending.spent() == pytest.approx(2 * PRICE)


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        ((200, {"raiFilteredReason": "Violence (code 39322018)"}, {}), REFUSED, "Violence"),
        ((200, {"predictions": [{"raiFilteredReason": "People"}]}, {}), REFUSED, "People"),
        ((400, {"error": {"message": "bad image", "status": "INVALID_ARGUMENT"}}, {}), FAILED, "bad image"),
        ((200, {"predictions": [{"bytesBase64Encoded": "aGVsbG8="}]}, {}), FAILED, "not 60x80"),
        ((200, {"predictions": [{"bytesBase64Encoded": SMALL}]}, {}), FAILED, "not 60x80"),
        (
            (200, {"raiFilteredReason": "V\x1b[2J\u202eio\nlence\ud800"}, {}),
            REFUSED,
            "filter: V\\[2Jio lence$",
        ),
        ((200, {}, {}), FAILED, "without a picture"),
        ((200, {"predictions": []}, {}), FAILED, "without a picture"),
        ((200, [], {}), FAILED, "without a picture"),
        ((200, {"predictions": [{"bytesBase64Encoded": 1}]}, {}), FAILED, "without a picture"),
        ((200, {"predictions": [{"bytesBase64Encoded": "%%%"}]}, {}), FAILED, "without a picture"),
        ((302, {}, {"Location": "http://127.0.0.1:9/"}), FAILED, "status 302"),
    ],
    ids=[
        "refused",
        "prediction refused",
        "invalid",
        "not a picture",
        "another size",
        "refused with odd characters",
        "nothing",
        "no predictions",
        "a list",
        "a number",
        "not base64",
        "elsewhere",
    ],
)
def test_what_concerns_a_page_fails_that_page_in_words(
    fake: FakeImagen, make: MakeImagen, answer: tuple[int, object, dict[str, str]], kind: str, words: str
) -> None:
    fake.planned = [answer]
    engine, spending = open_engine(make()), Spending(0.0)
    charge(engine, spending)
    with pytest.raises(PageError, match=words) as caught:
        engine.upscale(Batch(draw_pages(1, 40, 30), (60, 80)))
    assert caught.value.kind == kind and str(caught.value).isprintable()
    # It is counted if the service may bill it, and no whole answer is asked for again.
    assert spending.spent() == pytest.approx(PRICE if answer[0] == 200 else 0) and not fake.billed


@pytest.mark.parametrize(
    "body",
    [b"", b'{"predictions": [{"bytes', b"\xff\xfe", b"[" * 100_000],
    ids=["empty", "cut", "not text", "too deep"],
)
def test_an_answer_that_is_not_whole_never_becomes_a_page(
    fake: FakeImagen, make: MakeImagen, pauses: list[float], body: bytes
) -> None:
    fake.planned = [(200, body, {})] * 3
    with pytest.raises(PageError, match="3 attempts"):
        open_engine(make(attempts=3)).upscale(Batch(draw_pages(1, 40, 30), (60, 80)))
    assert not fake.planned


def test_credentials_that_are_no_longer_valid_end_the_run_and_cost_nothing(
    fake: FakeImagen, make: MakeImagen, tmp_path: Path
) -> None:
    draw_page(tmp_path / "in")
    fake.token = (400, {"error": "invalid_grant", "error_description": "Token has been revoked: secret-42"})
    with pytest.raises(DeviceError, match="does not accept the credentials") as caught:
        run_job(make())
    assert "secret-42" not in f"{caught.value!r} {caught.value.__cause__!r}"
    status = read_status(tmp_path / "out" / ".comic-upscale" / "ledger.sqlite3")
    assert status.spent == 0 and not fake.calls
    # The page is not blamed, and the next run does it.
    fake.token = None
    assert (status.pending, run_job(make()).done) == (1, 1)


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"model": "imagen-3.0-upscale"}, "may have been retired"), ({"region": "europe-west4"}, "no model")],
)
def test_a_retired_model_ends_the_run_and_says_so(
    fake: FakeImagen, make: MakeImagen, changes: dict[str, str], words: str
) -> None:
    engine, spending = open_engine(make(**changes)), Spending(0.0)
    charge(engine, spending)
    with pytest.raises(DeviceError, match=words) as caught:
        engine.upscale(Batch(draw_pages(1, 40, 30), (60, 80)))
    assert fake.billed == spending.spent() == 0
    # The service ends its own sentence.
    assert "not found. It may" in str(caught.value)


def test_an_account_without_rights_ends_the_run_and_says_which_it_needs(
    fake: FakeImagen, make: MakeImagen
) -> None:
    denied = {"error": {"code": 403, "message": "Permission denied", "status": "PERMISSION_DENIED"}}
    fake.planned = [(403, denied, {})]
    with pytest.raises(DeviceError, match=r"Permission denied.*Vertex AI User"):
        open_engine(make()).upscale(Batch(draw_pages(1, 40, 30), (60, 80)))


def test_a_service_that_is_not_there_costs_nothing(make: MakeImagen, pauses: list[float]) -> None:
    engine, spending = open_engine(make(endpoint="http://127.0.0.1:9", attempts=2)), Spending(0.0)
    charge(engine, spending)
    with pytest.raises(PageError, match="cannot be reached"):
        engine.upscale(Batch(draw_pages(1, 40, 30), (60, 80)))
    assert spending.spent() == 0 and len(pauses) == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"endpoint": "http://example.org"}, "token of your account"),
        ({"project": "../other"}, "project"),
        ({"credentials": "nowhere.json"}, "no file"),
    ],
)
def test_options_that_are_unsafe_or_wrong_are_refused(
    make: MakeImagen, options: dict[str, object], words: str
) -> None:
    with pytest.raises(SettingsError, match=words):
        registry.prepare_engine(make(**options))


def test_a_key_file_that_is_none_is_refused_without_quoting_it(make: MakeImagen, tmp_path: Path) -> None:
    (tmp_path / "key.json").write_text('{"private_key": "very-secret"}')
    settings = make(credentials=tmp_path / "key.json")
    with pytest.raises(SettingsError, match="service account") as caught:
        open_engine(settings)
    assert "very-secret" not in f"{caught.value!r} {caught.value.__cause__!r}"


def test_the_price_is_asked_before_a_run(make_job: MakeJob) -> None:
    settings = make_job(backend="imagen", model="auto", engine_options={"project": "p"})
    with pytest.raises(SettingsError, match="price_per_image"):
        registry.identify(settings)
