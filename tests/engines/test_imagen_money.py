"""What Imagen costs: every call is counted, none is paid for twice, also after a kill; answers are kept and deleted."""

from __future__ import annotations

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
from PIL import Image

pytest.importorskip("google.auth", reason="the extra [imagen] is not installed")

from comic_upscale.console.display import LogDisplay
from comic_upscale.console.prune_text import prune_lines
from comic_upscale.console.text import status_lines
from comic_upscale.costs.spending import Spending
from comic_upscale.engines import registry
from comic_upscale.engines.base import Batch, charge
from comic_upscale.errors import CeilingError, SettingsError
from comic_upscale.execution import quality_gate
from comic_upscale.execution.events import Event, Progress
from comic_upscale.execution.stop import CEILING, StopRequest
from comic_upscale.jobs.prune import prune
from comic_upscale.jobs.run import run_job
from comic_upscale.ledger.status import read_status
from comic_upscale.settings.job import JobSettings
from comic_upscale.settings.paths import answers_folder
from tests.conftest import MakeJob
from tests.engines.conftest import open_engine
from tests.engines.drawn_pages import draw_page, draw_pages
from tests.engines.fake_imagen import PRICE, TOKEN, FakeImagen

MakeImagen = Callable[..., JobSettings]


@pytest.fixture
def make(make_imagen: MakeImagen) -> MakeImagen:
    return make_imagen


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


def start(
    imagen_server: tuple[FakeImagen, Path], folder: Path, killed: str = "never"
) -> subprocess.Popen[bytes]:
    options = json.dumps({"endpoint": imagen_server[0].address, "credentials": str(imagen_server[1])})
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(folder), options, killed], cwd=Path(__file__).resolve().parents[2]
    )


def spent(folder: Path) -> float | None:
    return read_status(folder / "out" / ".comic-upscale" / "ledger.sqlite3").spent


def test_a_killed_run_pays_no_tile_twice_and_counts_exactly(
    imagen_server: tuple[FakeImagen, Path], fake: FakeImagen, make: MakeImagen, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    draw_page(tmp_path / "in", size=(100, 200))
    process, kept = None, answers_folder(tmp_path / "out")

    def kill_in_the_third_call() -> None:
        if len(fake.calls) == 2 and process is not None:
            process.kill()
            process.wait()

    fake.on_call = kill_in_the_third_call
    process = start(imagen_server, tmp_path)
    assert process.wait(60) == -signal.SIGKILL
    fake.on_call = lambda: None
    deadline = time.monotonic() + 60
    while len(fake.calls) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    # Three calls are paid for. The answer to the third one had nobody to go to.
    assert spent(tmp_path) == pytest.approx(3 * PRICE)
    assert len([path for path in kept.rglob("*") if path.is_file() and path.name != ".page"]) == 2
    assert start(imagen_server, tmp_path, "after the record").wait(60) == 9
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
    imagen_server: tuple[FakeImagen, Path], make: MakeImagen, tmp_path: Path,
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    draw_page(tmp_path / "in")
    with caplog.at_level(logging.DEBUG):
        run_job(make())
    secrets = (TOKEN, json.loads(imagen_server[1].read_text())["private_key"][40:80])
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


def test_a_page_whose_faces_the_gate_rejects_is_made_without_them_for_no_money(
    fake: FakeImagen, make: MakeImagen, tiny_restorer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Random weights draw noise in place of the face."""
    # Whatever the pages before it were like.
    monkeypatch.setattr(quality_gate, "HOPELESS_AFTER", 0)
    skimage = pytest.importorskip("skimage", reason="scikit-image has the photograph")
    (tmp_path / "in").mkdir()
    with Image.open(Path(skimage.__file__).parent / "data" / "astronaut.png") as photo:
        photo.convert("RGB").crop((80, 0, 400, 256)).save(tmp_path / "in" / "photo.png")
    run_job(make({"output": tmp_path / "plain", "face_model": None}))
    result = run_job(make({"face_model": tiny_restorer, "face_strength": 1.0}))
    assert result.done == 1 and fake.billed == 2
    status = read_status(tmp_path / "out" / ".comic-upscale" / "ledger.sqlite3")
    assert status.spent == pytest.approx(PRICE) and status.suspects == 0
    assert (tmp_path / "out" / "photo.png").read_bytes() == (tmp_path / "plain" / "photo.png").read_bytes()
    assert not list(answers_folder(tmp_path / "out").rglob("*.*"))
