"""Imagen, against a server on localhost that checks what the real one checks."""

from __future__ import annotations

import base64
import io
import json
import logging
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import requests
from PIL import Image

pytest.importorskip("google.auth", reason="the extra [imagen] is not installed")

from comic_upscale.console.display import LogDisplay
from comic_upscale.console.prune_text import prune_lines
from comic_upscale.console.text import status_lines
from comic_upscale.costs.spending import Spending
from comic_upscale.engines import registry
from comic_upscale.engines.base import Batch, Engine, charge
from comic_upscale.engines.imagen.client import _FIRST_PAUSE, FAILED, REFUSED, _retry_after
from comic_upscale.errors import CeilingError, DeviceError, PageError, SettingsError
from comic_upscale.execution.events import Event, Progress
from comic_upscale.execution.stop import CEILING, StopRequest
from comic_upscale.gate.seams import worst_seam
from comic_upscale.jobs.prune import prune
from comic_upscale.jobs.run import run_job
from comic_upscale.ledger.status import read_status
from comic_upscale.settings.job import JobSettings
from comic_upscale.settings.paths import answers_folder
from tests.conftest import MakeJob
from tests.engines.drawn_pages import draw_pages
from tests.engines.fake_imagen import TOKEN, FakeHandler, FakeImagen, serve

PRICE = 0.06


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[FakeImagen, Path]]:
    with serve() as fake:
        yield fake, fake.key_file(tmp_path_factory.mktemp("imagen") / "key.json")


@pytest.fixture
def fake(server: tuple[FakeImagen, Path]) -> FakeImagen:
    fake = server[0]
    fake.planned, fake.calls, fake.tones, fake.billed, fake.token = [], [], [], 0, None
    fake.on_call = lambda: None
    return fake


MakeImagen = Callable[..., JobSettings]


@pytest.fixture
def make(server: tuple[FakeImagen, Path], fake: FakeImagen, make_job: MakeJob) -> MakeImagen:
    def make_settings(changes: dict[str, object] | None = None, **options: object) -> JobSettings:
        given = {
            "project": "my-project", "price_per_image": PRICE, "credentials": server[1],
            "endpoint": fake.address, **options,
        }  # fmt: skip
        values = {"backend": "imagen", "model": "auto", "engine_options": given, **(changes or {})}
        return make_job(**values)

    return make_settings


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


def open_engine(settings: JobSettings) -> Engine:
    (engine,) = registry.open_engines(settings, registry.prepare_engine(settings))
    return engine


def draw_page(folder: Path, name: str = "a.png", size: tuple[int, int] = (60, 80)) -> None:
    folder.mkdir(exist_ok=True)
    number = sum(name.encode())
    pixels = np.random.default_rng(number).integers(0, 255, (size[1] // 4, size[0] // 4, 3), np.uint8)
    Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC).save(folder / name)


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
    with pytest.raises(DeviceError, match=words):
        engine.upscale(Batch(draw_pages(1, 40, 30), (60, 80)))
    assert fake.billed == spending.spent() == 0


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


# Money


def test_no_page_is_paid_eight_times(make_job: MakeJob) -> None:
    settings = make_job(backend="imagen", engine_options={"project": "p", "price_per_image": PRICE}, tta=True)
    with pytest.raises(SettingsError, match="eight times"):
        registry.identify(settings)


def test_the_ceiling_is_asked_before_each_call(make: MakeImagen) -> None:
    engine, spending = open_engine(make()), Spending(0.0, 2.5 * PRICE)
    charge(engine, spending)
    page = draw_pages(3, 40, 30)
    for number in range(2):
        engine.upscale(Batch(page[number : number + 1], (60, 80)))
    with pytest.raises(CeilingError, match="next call costs"):
        engine.upscale(Batch(page[2:], (60, 80)))
    assert spending.spent() == pytest.approx(2 * PRICE)


def test_a_run_stops_at_the_ceiling_goes_on_and_counts_exactly(
    fake: FakeImagen, make: MakeImagen, tmp_path: Path
) -> None:
    for name in ("a.png", "b.png", "c.png"):
        draw_page(tmp_path / "in", name, (100, 100))
    stop = StopRequest()
    first = run_job(make({"max_cost": 2 * PRICE, "workers": 1}), stop=stop)
    assert (first.done, first.pending, stop.kind) == (2, 1, CEILING)
    assert fake.billed == 2
    second = run_job(make({"max_cost": 3 * PRICE, "workers": 1}))
    assert (second.done, second.failed, fake.billed) == (3, 0, 3)
    status = read_status(tmp_path / "out" / ".comic-upscale" / "ledger.sqlite3")
    assert status.spent == pytest.approx(3 * PRICE)
    assert second.spent == pytest.approx(3 * PRICE)


def test_a_page_that_was_stopped_between_its_tiles_pays_only_the_rest(
    fake: FakeImagen, make: MakeImagen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("comic_upscale.engines.imagen.tiles.MOST_OUTPUT", 40_000)
    draw_page(tmp_path / "in", size=(100, 200))
    run_job(make({"max_cost": 2 * PRICE}, overlap=8))
    sent = list(fake.calls)
    assert len(sent) == 2
    kept = answers_folder(tmp_path / "out")
    assert len([path for path in kept.rglob("*") if path.is_file() and path.name != ".page"]) == 2
    result = run_job(make({"max_cost": 1.0}, overlap=8))
    assert result.done == 1 and fake.billed == len(fake.calls) > 2
    status = read_status(tmp_path / "out" / ".comic-upscale" / "ledger.sqlite3")
    assert status.spent == pytest.approx(fake.billed * PRICE)
    assert not [path for path in kept.rglob("*") if path.is_file()], "kept only until the page is recorded"
    # As if the run had never been stopped.
    calls = len(fake.calls)
    run_job(make({"output": tmp_path / "again"}, overlap=8))
    assert len(fake.calls) - calls == calls
    assert (tmp_path / "again" / "a.png").read_bytes() == (tmp_path / "out" / "a.png").read_bytes()


def test_a_run_and_its_status_say_which_tile_is_under_way(
    fake: FakeImagen, make: MakeImagen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("comic_upscale.engines.imagen.tiles.MOST_OUTPUT", 40_000)
    monkeypatch.setattr("comic_upscale.jobs.begin.HEARTBEAT_SECONDS", 0.05)
    draw_page(tmp_path / "in", size=(100, 200))
    ledger, lines = tmp_path / "out" / ".comic-upscale" / "ledger.sqlite3", list[str]()
    events, shown = list[Progress](), list[str]()

    def is_in_the_second_tile(event: Progress) -> bool:
        return any(page.done == 1 for page in event.within)

    def wait_in_the_second_call() -> None:
        if len(fake.calls) == 1:
            deadline = time.monotonic() + 60
            while time.monotonic() < deadline and not (shown and any(map(is_in_the_second_tile, events))):
                shown[:] = [line for line in status_lines(read_status(ledger)) if "tile 2" in line]
                time.sleep(0.01)

    def listen(event: Event) -> None:
        show(event)
        if isinstance(event, Progress):
            events.append(event)

    monkeypatch.setattr("comic_upscale.console.display.LOG_INTERVAL_SECONDS", 0)
    show = LogDisplay(lines.append, verbose=False)
    fake.on_call = wait_in_the_second_call
    assert run_job(make(overlap=8), on_event=listen).done == 1
    (page,) = next(event.within for event in events if is_in_the_second_tile(event))
    assert (page.source, page.unit, page.total) == ("a.png", "tile", len(fake.calls))
    text = f"a.png: tile 2 of {page.total}, {100 / page.total:.0f} %"
    assert shown == [f"in progress: {text}"]
    assert any(line.endswith(text) for line in lines)
    assert not read_status(ledger).within, "only while the page is in progress"


# A real run in a real process, with tiles that are small enough for a test.
PROGRAM = """
import json, os, sys
from pathlib import Path
from comic_upscale.engines.imagen import tiles
from comic_upscale.jobs.run import run_job
from comic_upscale.settings.job import JobSettings
from comic_upscale.storage.answers import AnswerStore
tiles.MOST_OUTPUT = 40_000
if sys.argv[3] == "after the record":
    AnswerStore.forget = lambda self, pages: [*pages] and os._exit(9)
options = {"project": "my-project", "price_per_image": 0.06, "overlap": 8, **json.loads(sys.argv[2])}
options["credentials"], folder = Path(options["credentials"]), Path(sys.argv[1])
settings = JobSettings(input=folder / "in", output=folder / "out", backend="imagen", scale=2.0,
                       engine_options=options, workers=1)
sys.exit(run_job(settings).failed > 0)
"""


def start(server: tuple[FakeImagen, Path], folder: Path, killed: str = "never") -> subprocess.Popen[bytes]:
    options = json.dumps({"endpoint": server[0].address, "credentials": str(server[1])})
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(folder), options, killed], cwd=Path(__file__).resolve().parents[2]
    )


def spent(folder: Path) -> float | None:
    return read_status(folder / "out" / ".comic-upscale" / "ledger.sqlite3").spent


def test_a_killed_run_pays_no_tile_twice_and_counts_exactly(
    server: tuple[FakeImagen, Path], fake: FakeImagen, make: MakeImagen, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    draw_page(tmp_path / "in", size=(100, 200))
    process, kept = None, answers_folder(tmp_path / "out")

    def kill_in_the_third_call() -> None:
        if len(fake.calls) == 2 and process is not None:
            process.kill()
            process.wait()

    fake.on_call = kill_in_the_third_call
    process = start(server, tmp_path)
    assert process.wait(60) == -signal.SIGKILL
    fake.on_call = lambda: None
    deadline = time.monotonic() + 60
    while len(fake.calls) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    # Three calls are paid for. The answer to the third one had nobody to go to.
    assert spent(tmp_path) == pytest.approx(3 * PRICE)
    assert len([path for path in kept.rglob("*") if path.is_file() and path.name != ".page"]) == 2
    assert start(server, tmp_path, "after the record").wait(60) == 9
    paid = list(fake.calls)
    assert spent(tmp_path) == pytest.approx(fake.billed * PRICE) and fake.billed == len(paid)
    # That kill came before the answers were deleted. The next run deletes them, and pays nothing.
    assert [path for path in kept.rglob("*") if path.is_file()]
    monkeypatch.setattr("comic_upscale.engines.imagen.tiles.MOST_OUTPUT", 40_000)
    assert run_job(make(overlap=8)).done == 1
    assert fake.calls == paid and spent(tmp_path) == pytest.approx(fake.billed * PRICE)
    assert not [path for path in kept.rglob("*") if path.is_file()]
    # An undisturbed run makes the same page. It makes one call less: the one whose answer was lost.
    assert run_job(make({"output": tmp_path / "calm"}, overlap=8)).done == 1
    assert len(fake.calls) - len(paid) == len(paid) - 1
    assert (tmp_path / "calm" / "a.png").read_bytes() == (tmp_path / "out" / "a.png").read_bytes()


@pytest.fixture
def cut_short(
    make: MakeImagen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[], int]]:
    """Stop a run between the tiles of a page; afterwards count the answers that are kept."""
    monkeypatch.setattr("comic_upscale.engines.imagen.tiles.MOST_OUTPUT", 40_000)
    draw_page(tmp_path / "in", "a.png", (40, 40))
    draw_page(tmp_path / "in", "b.png", (100, 400))
    assert run_job(make({"max_cost": 3 * PRICE, "workers": 1}, overlap=8)).done == 1
    kept = answers_folder(tmp_path / "out")
    yield lambda: len([path for path in kept.rglob("*") if path.is_file() and path.name != ".page"])


def test_answers_of_pages_that_will_never_be_done_can_be_pruned(
    cut_short: Callable[[], int], make: MakeImagen, tmp_path: Path
) -> None:
    ledger = tmp_path / "out" / ".comic-upscale" / "ledger.sqlite3"
    assert cut_short() == 2
    # The next run needs them.
    assert (prune(ledger, remove=True).answers, cut_short()) == (0, 2)
    (tmp_path / "in" / "b.png").unlink()
    listed = prune(ledger, remove=False)
    assert (listed.answers, cut_short()) == (1, 2) and listed.answer_bytes > 1000
    assert "would remove, with --yes: answers that were paid for, of 1 page" in "\n".join(prune_lines(listed))
    removed = prune(ledger, remove=True)
    assert (removed.answers, cut_short()) == (1, 0)
    assert not any("nothing to prune" in line for line in prune_lines(removed))
    assert "nothing to prune" in prune_lines(prune(ledger, remove=True))[0]


def test_the_end_of_a_job_deletes_answers_of_other_settings_and_of_an_earlier_page(
    cut_short: Callable[[], int], fake: FakeImagen, make: MakeImagen, tmp_path: Path
) -> None:
    # A job with another input may still need them.
    draw_page(tmp_path / "other", "c.png", (40, 40))
    assert run_job(make({"input": tmp_path / "other"}, overlap=8)).done == 1
    assert cut_short() == 2
    draw_page(tmp_path / "in", "b.png", (60, 40))
    assert run_job(make({"max_cost": 1.0}, overlap=8, prompt="ink")).done == 2
    assert cut_short() == 0


def test_a_renamed_page_still_has_its_answers(
    cut_short: Callable[[], int], fake: FakeImagen, make: MakeImagen, tmp_path: Path
) -> None:
    calls = len(fake.calls)
    (tmp_path / "in" / "b.png").rename(tmp_path / "in" / "c.png")
    # Stopped once more, after one more tile.
    run_job(make({"max_cost": 4 * PRICE, "workers": 1}, overlap=8))
    assert (len(fake.calls) - calls, cut_short()) == (1, 3)
    assert prune(tmp_path / "out" / ".comic-upscale" / "ledger.sqlite3", remove=True).answers == 0
    assert run_job(make({"max_cost": 1.0}, overlap=8)).pending == 0
    assert fake.billed == len(fake.calls) and cut_short() == 0


def test_a_kept_answer_that_is_damaged_is_asked_for_again(
    fake: FakeImagen, make: MakeImagen, tmp_path: Path
) -> None:
    page = draw_pages(1, 40, 30)
    open_engine(make()).upscale(Batch(page, (60, 80)))
    open_engine(make()).upscale(Batch(page, (60, 80)))
    assert fake.billed == 1
    (kept,) = [path for path in answers_folder(tmp_path / "out").rglob("*") if path.is_file()]
    kept.write_bytes(kept.read_bytes()[:50])
    open_engine(make()).upscale(Batch(page, (60, 80)))
    assert fake.billed == 2


def test_no_credential_is_written_anywhere(
    server: tuple[FakeImagen, Path], make: MakeImagen, tmp_path: Path,
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    draw_page(tmp_path / "in")
    with caplog.at_level(logging.DEBUG):
        run_job(make())
    secrets = (TOKEN, json.loads(server[1].read_text())["private_key"][40:80])
    written = [path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()]
    shown = caplog.text + "".join(capfd.readouterr())
    for secret in secrets:
        assert secret not in shown
        assert not any(secret.encode() in data for data in written)


def test_a_ledger_from_before_calls_were_billed_is_read(make_job: MakeJob, tmp_path: Path) -> None:
    from tests.fakes import NearestEngine

    draw_page(tmp_path / "in")
    run_job(make_job(price=1.0), open_engines=lambda *_: [NearestEngine()])
    path = tmp_path / "out" / ".comic-upscale" / "ledger.sqlite3"
    before = read_status(path).spent
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("alter table runs drop column billed")
        connection.commit()
    assert before is not None and read_status(path).spent == before


def test_alpha_is_not_sent(fake: FakeImagen, make: MakeImagen, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    pixels = np.random.default_rng(3).integers(0, 255, (80, 60, 4), np.uint8)
    Image.fromarray(pixels).save(folder / "a.png")
    assert run_job(make()).done == 1
    assert fake.billed == 1
    with Image.open(io.BytesIO((tmp_path / "out" / "a.png").read_bytes())) as made:
        assert made.mode == "RGBA" and made.size == (120, 160)
