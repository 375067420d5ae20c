"""From an input to a quote: pixels counted, pages tried, measurements kept and found again."""

from __future__ import annotations

import dataclasses
import json
import socket
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest

from comic_upscale.costs.prices import listed_offers
from comic_upscale.costs.rates import Measured
from comic_upscale.costs.workload import Workload
from comic_upscale.engines.base import Batch
from comic_upscale.errors import InputError, SettingsError
from comic_upscale.estimates.assumed import AssumedPages, assume_pages
from comic_upscale.estimates.bench import bench
from comic_upscale.estimates.history import (
    count_places,
    from_ledgers,
    hardware_name,
    load_measurements,
    parse_recorded_devices,
    save_measurement,
)
from comic_upscale.estimates.quotes import Question, is_over_budget, quotes_for
from comic_upscale.estimates.workload import (
    LEAST_DOUBT,
    count_workload,
    doubt_of_ratio,
    run_pilot,
)
from comic_upscale.execution.events import Event
from comic_upscale.imaging.codecs import FORMATS
from comic_upscale.jobs.run import run_job
from comic_upscale.ledger.records import PageDone
from comic_upscale.models.catalogue import CATALOGUE
from comic_upscale.planning.preview import preview
from comic_upscale.settings.job import FormatName
from comic_upscale.settings.processing import ProcessingSettings
from comic_upscale.settings.rules import read_rules
from comic_upscale.settings.selection import Selection
from comic_upscale.settings.sizes import Bounds, Width
from tests.archives import make_zip, pictures
from tests.conftest import MakeSettings, draw
from tests.costs.test_costs import measured
from tests.fakes import NearestEngine, pause

OURS = CATALOGUE["comic-fast-x3"]


def fake(*_: object) -> list[NearestEngine]:
    return [NearestEngine(pause(0.02))]


def of_ours(**changes: object) -> Measured:
    own = {"model": OURS.name, "model_sha256": OURS.weights.sha256, "tflop_per_page": OURS.tflop_per_page}
    return measured(**{**own, **changes})


def test_pages_are_counted_from_their_headers_alone(make_settings: MakeSettings, pages: Path) -> None:
    settings = make_settings()
    work = count_workload(preview(settings), settings)
    assert work.pages == 12
    # Eight of 24x32, three of 20x20, one more of 24x32.
    assert work.network_pixels == 9 * 24 * 32 + 3 * 20 * 20
    assert work.output_pixels == 9 * 60 * 80 + 3 * 50 * 50
    assert work.upload_bytes == sum(path.stat().st_size for path in pages.rglob("*.png"))
    assert work.download_bytes.low < work.download_bytes.likely < work.download_bytes.high
    assert not settings.output.exists(), "nothing is written"


def test_pages_of_rules_are_counted_with_the_networks_of_their_rules(make_settings: MakeSettings) -> None:
    other = CATALOGUE["comic-best-x3"]
    rules = read_rules(
        [
            {"path": "extra/", "model": other.name},
            # No header tells it.
            {"max_jpeg_quality": 50, "model": "RealESRGAN_x4plus"},
        ],
        ProcessingSettings,
    )
    settings = make_settings(model=OURS.name, rules=rules)
    work = count_workload(preview(settings), settings)
    assert work.network_pixels == 9 * 24 * 32 + 3 * 20 * 20
    assert work.by_rules == {other.name: 24 * 32 + 3 * 20 * 20}
    plain = dataclasses.replace(work, by_rules={})
    question = Question(model=OURS.name, gpus=("RTX 4090",), offers=tuple(listed_offers()))
    each, before = quotes_for(work, question)[0], quotes_for(plain, question)[0]
    share = work.by_rules[other.name] / work.network_pixels
    growth = 1 - share + share * other.tflop_per_page / OURS.tflop_per_page
    assert growth > 1.5
    grown = work.through({other.name: other.tflop_per_page}.get, OURS.tflop_per_page)
    assert grown.network_pixels == round(growth * work.network_pixels)
    # The likely time may be that of the encoders.
    assert each.parts["compute"].seconds.low > before.parts["compute"].seconds.low
    # A file of the user's own has no known arithmetic.
    assert work.through(lambda _: None, OURS.tflop_per_page).network_pixels == work.network_pixels


def test_a_pilot_goes_through_the_rules_of_paths(make_settings: MakeSettings, pages: Path) -> None:
    rules = read_rules([{"path": "extra/", "format": "webp"}], ProcessingSettings)
    settings = make_settings(rules=rules, selection=Selection(paths=("extra/",)))
    written: list[str] = []

    def note(event: Event) -> None:
        if isinstance(event, PageDone):
            written.append(event.output)

    run_pilot(preview(settings), settings, 2, on_event=note, open_engines=fake)
    assert [Path(output).suffix for output in written] == [".webp", ".webp"]


def test_pages_that_are_done_or_large_enough_cost_nothing_or_no_network(make_settings: MakeSettings) -> None:
    run_job(make_settings(), open_engines=fake)
    settings = make_settings()
    assert count_workload(preview(settings), settings).pages == 0
    small = make_settings(size=Width(21))
    work = count_workload(preview(small), small)
    assert (work.pages, work.network_pixels) == (12, 3 * 20 * 20), "pages 24 wide are shrunk, not enlarged"


def test_a_job_that_has_begun_knows_the_bytes_of_its_outputs(
    make_settings: MakeSettings, pages: Path
) -> None:
    finished = run_job(make_settings(), open_engines=fake)
    draw(pages / "new.png", 999)
    settings = make_settings()
    work = count_workload(preview(settings), settings)
    assert (work.pages, finished.done) == (1, 12)
    assert "measured by this job" in work.download_basis


def test_a_pilot_does_real_pages_and_leaves_nothing_behind(make_settings: MakeSettings, pages: Path) -> None:
    settings = make_settings(price=1.0, max_cost=0.0)
    plan = preview(settings)
    found = run_pilot(plan, settings, 5, open_engines=fake)
    assert (found.pages, found.origin) == (5, "pilot of 5 pages")
    assert found.network_seconds >= 5 * 0.02
    assert found.whole_seconds >= found.network_seconds
    assert found.output_bytes > 0
    assert not settings.output.exists()
    work = count_workload(plan, settings, found)
    assert "measured on 5 of these pages" in work.download_basis
    (quote,) = quotes_for(work, Question(model=settings.model, pilot=found))
    assert (quote.basis, quote.dollars) == ("measured", None)
    assert quote.seconds.low < quote.seconds.likely < quote.seconds.high
    (paid,) = quotes_for(work, Question(model=settings.model, pilot=found, price=3600.0))
    assert paid.dollars is not None
    assert paid.dollars.likely == pytest.approx(paid.seconds.likely), "a dollar a second"


@pytest.mark.parametrize("share", [0.7, 1.0, 1.3, 5.0])
def test_a_small_pilot_makes_the_range_of_the_download_no_wider(
    make_settings: MakeSettings, pages: Path, share: float
) -> None:
    settings = make_settings()
    plan = preview(settings)
    before = count_workload(plan, settings)
    found = dataclasses.replace(
        run_pilot(plan, settings, 2, open_engines=fake), output_pixels=before.output_pixels,
        output_bytes=round(before.download_bytes.likely * share), bytes_doubt=0.5,
    )  # fmt: skip
    sizes = count_workload(plan, settings, found).download_bytes
    assert 0 < sizes.low < sizes.likely < sizes.high
    assert sizes.likely == pytest.approx(before.download_bytes.likely * share, rel=1e-3)
    if share < 2:
        assert before.download_bytes.low <= sizes.low and sizes.high <= before.download_bytes.high


def test_a_pilot_tells_what_a_run_has_once_from_what_it_has_with_every_page(
    make_settings: MakeSettings, pages: Path
) -> None:
    late = [1.5]

    def slow_at_first(_: Batch) -> None:
        time.sleep(late.pop() if late else 0.02)

    settings = make_settings()
    found = run_pilot(
        preview(settings), settings, 5, started_in=7.0, open_engines=lambda *_: [NearestEngine(slow_at_first)]
    )
    assert found.once_seconds is not None
    assert 1.0 < found.once_seconds < found.whole_seconds
    assert found.start_seconds > 7.0


def test_a_pilot_takes_pages_out_of_volumes(make_settings: MakeSettings, tmp_path: Path) -> None:
    make_zip(tmp_path / "volumes" / "a.cbz", pictures(6))
    settings = make_settings(input=tmp_path / "volumes")
    found = run_pilot(preview(settings), settings, 3, open_engines=fake)
    assert found.pages == 3


def test_a_pilot_takes_pages_out_of_a_selection(make_settings: MakeSettings, pages: Path) -> None:
    names = sorted(path.name for path in pages.iterdir())[:3]
    settings = make_settings(selection=Selection(paths=tuple(names)))
    assert run_pilot(preview(settings), settings, 2, open_engines=fake).pages == 2


def test_a_pilot_of_nothing_is_refused(make_settings: MakeSettings) -> None:
    run_job(make_settings(), open_engines=fake)
    settings = make_settings()
    with pytest.raises(InputError, match="no page is left for a pilot"):
        run_pilot(preview(settings), settings, 3, open_engines=fake)


def test_pages_that_differ_make_a_rate_doubtful() -> None:
    even = doubt_of_ratio([(100, 1.0)] * 10)
    uneven = doubt_of_ratio([(100, 1.0), (100, 3.0)] * 5)
    assert even == LEAST_DOUBT
    assert uneven > 2 * even
    assert doubt_of_ratio([(100, 1.0)]) == 0.5
    more = doubt_of_ratio([(100, 1.0), (100, 3.0)] * 50)
    assert more < uneven / 2


def test_a_run_in_a_ledger_is_a_measurement(make_settings: MakeSettings, pages: Path) -> None:
    for number in range(20):
        draw(pages / "more" / f"{number}.png", 300 + number)
    settings = make_settings()
    finished = run_job(settings, open_engines=fake)
    (found,) = from_ledgers(
        [settings.ledger_path, settings.output / "none"], socket.gethostname(), "a processor"
    )
    assert (found.pages, found.hardware, found.here) == (32, "fake", True)
    assert found.network_seconds >= 32 * 0.02
    assert 0.3 * finished.seconds < found.whole_seconds < 1.2 * finished.seconds
    assert from_ledgers([settings.ledger_path], "another", "x")[0].here is False


def test_a_remote_run_is_a_measurement_of_its_gpu_and_not_of_this_machine(
    make_settings: MakeSettings, pages: Path
) -> None:
    for number in range(20):
        draw(pages / "more" / f"{number}.png", 300 + number)
    settings = make_settings()
    run_job(settings, open_engines=fake)
    with closing(sqlite3.connect(settings.ledger_path)) as ledger, ledger:
        ledger.execute("update runs set device = 'gpu-box: NVIDIA GeForce RTX 4090, NVIDIA GeForce RTX 4090'")
    here = socket.gethostname()
    (found,) = from_ledgers([settings.ledger_path], here, "a processor")
    assert (found.hardware, found.here, found.devices) == ("2 x NVIDIA GeForce RTX 4090", False, 2)
    assert found.whole_seconds <= max(found.network_seconds, found.host_seconds), "the way home is not in it"
    with closing(sqlite3.connect(settings.ledger_path)) as ledger, ledger:
        ledger.execute("update runs set device = 'gpu-box: processor'")
    assert from_ledgers([settings.ledger_path], here, "a processor") == []


@pytest.mark.parametrize(
    ("device", "name"),
    [
        ("cuda:0 (NVIDIA H200)", "NVIDIA H200"), ("cpu (2 threads)", "EPYC (2 threads)"), ("fake", "fake"),
        ("cpu (2 threads, 2 pages at once)", "EPYC (2 threads)"),
        ("cuda:0 (Tesla T4), cuda:1 (Tesla T4)", "2 x Tesla T4"), ("mps (Apple GPU)", "Apple GPU"),
        ("gpu-box: NVIDIA H200", "NVIDIA H200"), ("root@203.0.113.7:40022: Tesla T4, Tesla T4", "2 x Tesla T4"),
    ],
)  # fmt: skip
def test_hardware_is_named_by_its_gpu_or_its_processor(device: str, name: str) -> None:
    assert hardware_name(parse_recorded_devices(device).devices, "EPYC") == name


@pytest.mark.parametrize(
    ("device", "places"),
    [
        ("cuda:0 (NVIDIA H200)", 1), ("cuda:0 (Tesla T4), cuda:1 (Tesla T4)", 2), ("cpu (2 threads)", 1),
        ("cpu (8 threads, 8 pages at once)", 8), ("fake", 1), ("gpu-box: Tesla T4, Tesla T4", 2),
    ],
)  # fmt: skip
def test_how_many_pages_are_in_the_network_at_once_is_known_from_the_devices(
    device: str, places: int
) -> None:
    assert count_places(parse_recorded_devices(device).devices) == places


def test_measurements_are_kept_replaced_and_read_again(tmp_path: Path) -> None:
    folder = tmp_path / "rates"
    assert load_measurements(folder) == []
    first = save_measurement(measured(date="2026-11-20"), folder)
    second = save_measurement(measured(whole_seconds=30.0), folder)
    assert first == second, "the same machine and network: one file"
    save_measurement(measured(model_sha256="2" * 64, date="2026-11-19"), folder)
    (folder / "broken.json").write_text("{", encoding="utf-8")
    (folder / "newer.json").write_text(json.dumps({"unknown": 1}), encoding="utf-8")
    values = json.loads(first.read_text(encoding="utf-8"))
    first.write_text(json.dumps({**values, "of_a_newer_version": 1}), encoding="utf-8")
    found = load_measurements(folder)
    assert [each.date for each in found] == ["2026-11-21", "2026-11-19"]
    assert found[0].whole_seconds == 30.0


def imagined(pages: int = 1000) -> object:
    page = AssumedPages(count=pages, width=512, height=768, source_bytes=500_000)
    return assume_pages([page], ProcessingSettings(scale=2.5))


def test_imagined_pages_of_several_sizes_may_be_skipped_shrunk_or_too_small() -> None:
    pages = [
        AssumedPages(count=3, width=100, height=200),
        AssumedPages(count=1, width=1000, height=100),
        AssumedPages(count=2, width=3000, height=9000),
    ]
    work = assume_pages(pages, ProcessingSettings(size=Width(500), skip_larger_than=Bounds(2000, 2000)))
    assert (work.pages, work.output_pixels) == (4, 3 * 500 * 1000 + 500 * 50)
    # The wide page is shrunk, which needs no network.
    assert work.network_pixels == 3 * 100 * 200
    with pytest.raises(SettingsError, match="would have to grow"):
        assume_pages([AssumedPages(count=1, width=10, height=10)], ProcessingSettings(size=Width(500)))


def test_pages_that_need_not_be_there_are_counted_in_their_format() -> None:
    def imagine(format: FormatName, quality: int | None = None) -> Workload:
        page = AssumedPages(count=10, width=512, height=768, source_bytes=1)
        return assume_pages([page], ProcessingSettings(scale=2.5, format=format, quality=quality))

    pixels = 10 * 1280 * 1920
    for name, format in FORMATS.items():
        for quality in (None,) if name in ("png", "tiff") else (None, 80):
            work, assumed = imagine(name, quality), format.assumed(quality)
            assert work.format == format.encoding(quality)
            assert work.download_bytes.likely == pytest.approx(pixels * assumed.color_bytes)
            assert work.encode_seconds == assumed.seconds
    # A page that is not there has no format of its own.
    kept_format = imagine("auto", 80)
    assert (kept_format.format, kept_format.download_bytes) == ("png", imagine("png").download_bytes)
    assert "as PNG" in kept_format.download_basis


def test_what_was_measured_in_one_format_is_quoted_for_another(make_settings: MakeSettings) -> None:
    """The workers keep this machine busiest; AVIF takes them longer, JPEG not as long."""
    found = of_ours(host_seconds=400.0)
    plain = make_settings()
    seconds: dict[str, float] = {}
    for format in ("png", "jpeg", "avif", "auto"):
        settings = dataclasses.replace(plain, format=format)
        work = count_workload(preview(settings), settings)
        (quote, *_) = quotes_for(work, Question(model=OURS.name, measurements=(found,)))
        told = quote.parts["compute"].source
        assert ("written as png" in told) == (format not in ("png", "auto")), "all the pages are PNG"
        seconds[format] = quote.parts["compute"].seconds.likely
    assert seconds["jpeg"] < seconds["png"] == seconds["auto"] < seconds["avif"]


def test_a_measurement_on_a_gpu_is_preferred_to_a_computed_rate() -> None:
    question = Question(model=OURS.name, gpus=("RTX 4090",), offers=tuple(listed_offers()))
    work = imagined()
    computed = quotes_for(work, question)  # type: ignore[arg-type]
    assert {quote.basis for quote in computed} == {"computed"}
    on_card = of_ours(hardware="NVIDIA GeForce RTX 4090", here=False, origin="ledger /l")
    better = quotes_for(work, dataclasses.replace(question, measurements=(on_card,)))  # type: ignore[arg-type]
    assert {quote.basis for quote in better} == {"measured"}
    assert "measured on NVIDIA GeForce RTX 4090, ledger /l" in better[0].parts["compute"].source


def test_without_a_named_gpu_this_machine_comes_first_and_then_the_cheapest() -> None:
    found = of_ours(hardware="EPYC (2 threads)")
    question = Question(model=OURS.name, offers=tuple(listed_offers()), measurements=(found,))
    here, *rented = quotes_for(imagined(), question)  # type: ignore[arg-type]
    assert (here.hardware, here.seller) == ("EPYC (2 threads)", "")
    dollars = [quote.dollars.likely for quote in rented if quote.dollars is not None]
    assert dollars == sorted(dollars)
    assert len(dollars) == len(listed_offers())


def test_a_network_of_ones_own_that_was_measured_last_does_not_stand_in_the_way_of_auto() -> None:
    mine = measured(model="mine.safetensors", tflop_per_page=None)
    offers = tuple(listed_offers())
    alone = quotes_for(imagined(), Question(model="auto", offers=offers, measurements=(mine,)))  # type: ignore[arg-type]
    assert len(alone) == len(offers)
    assert all(quote.seller for quote in alone), "this machine was not measured with a network that is known"
    older = Question(model="auto", offers=offers, measurements=(mine, of_ours(hardware="EPYC (2 threads)")))
    assert quotes_for(imagined(), older)[0].model == OURS.name  # type: ignore[arg-type]


def test_auto_has_a_strength_although_what_was_measured_here_has_none() -> None:
    other = CATALOGUE["realesr-animevideov3"]
    found = measured(model=other.name, model_sha256=other.weights.sha256, tflop_per_page=other.tflop_per_page)
    question = Question(model="auto", denoise=0.5, offers=tuple(listed_offers()), measurements=(found,))
    here, *rented = quotes_for(imagined(), question)  # type: ignore[arg-type]
    assert (here.model, here.seller) == (other.name, "")
    assert rented


def test_what_cannot_be_quoted_says_what_to_do() -> None:
    work = imagined()
    offers = tuple(listed_offers())
    with pytest.raises(SettingsError, match="comic-upscale bench"):
        quotes_for(work, Question(model=OURS.name, gpus=("RTX 9999",), offers=offers))  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match="--price"):
        quotes_for(work, Question(model=OURS.name, gpus=("RTX 3060",), offers=offers))  # type: ignore[arg-type]
    priced = Question(model=OURS.name, gpus=("RTX 3060",), offers=offers, price=0.1)
    (alone,) = quotes_for(work, priced)  # type: ignore[arg-type]
    assert "traffic and storage are not counted" in alone.price_source


def test_a_price_of_ones_own_replaces_the_hour_and_leaves_traffic_and_storage() -> None:
    question = Question(model=OURS.name, gpus=("T4",), offers=tuple(listed_offers()))
    listed = quotes_for(imagined(), question)[0]  # type: ignore[arg-type]
    assert listed.hour is not None
    # At the listed price nothing changes, and offers that differ in the hour alone are one.
    (same,) = quotes_for(imagined(), dataclasses.replace(question, price=listed.hour.likely))  # type: ignore[arg-type]
    assert same.dollars is not None
    assert listed.dollars is not None
    assert same.dollars.likely == pytest.approx(listed.dollars.likely)
    assert "traffic and storage of AWS g4dn.xlarge spot" in same.price_source
    # For nothing an hour only the traffic is left to pay: 0.09 dollars for each GB that comes home.
    (free,) = quotes_for(imagined(), dataclasses.replace(question, price=0.0))  # type: ignore[arg-type]
    home = free.parts["download"].dollars
    assert home is not None
    assert home.likely == pytest.approx(1000 * 1280 * 1920 * 1.22 * 1e-9 * 0.09)


def test_a_budget_is_kept_by_the_likely_cost_of_the_cheapest() -> None:
    question = Question(model=OURS.name, gpus=("RTX 4090", "T4"), offers=tuple(listed_offers()))
    quotes = quotes_for(imagined(), question)  # type: ignore[arg-type]
    cheapest = quotes[0].dollars
    assert cheapest is not None
    assert not is_over_budget(quotes, cheapest.likely)
    assert is_over_budget(quotes, cheapest.likely * 0.99)
    with pytest.raises(SettingsError, match="--price"):
        is_over_budget([], 1)


def test_bench_measures_network_and_run_and_is_quoted_from(
    make_settings: MakeSettings, tmp_path: Path
) -> None:
    told: list[str] = []
    engine = NearestEngine(pause(0.05), limit=2)
    result = bench(
        make_settings(workers=2), seconds=1.0, on_step=told.append, open_engines=lambda *_: [engine]
    )
    assert engine.closed
    assert told[-1].startswith("a whole run of ")
    assert result.alone_pages_per_second < 2 / 0.05
    assert result.whole_pages_per_second == pytest.approx(
        result.measured.pages / result.measured.whole_seconds, rel=0.01
    )
    assert set(result.stages) == {"decode", "upscale", "encode", "place"}
    assert result.stages["upscale"].seconds_a_page >= 0.025
    assert all(0 <= stage.busy <= 1 for stage in result.stages.values())
    assert result.stages["decode"].waited_a_page is None
    assert 0 <= result.network_idle < 1
    assert result.peak_memory_bytes > 10_000_000
    assert result.peak_device_bytes is None
    save_measurement(result.measured, tmp_path / "rates")
    assert load_measurements(tmp_path / "rates") == [result.measured]


def test_a_network_that_cannot_do_a_page_is_said(make_settings: MakeSettings) -> None:
    from comic_upscale.errors import DeviceError, PageError

    def no_memory(_: Batch) -> None:
        raise PageError("out-of-memory", "not enough")

    with pytest.raises(DeviceError, match="not enough"):
        bench(make_settings(), seconds=1.0, open_engines=lambda *_: [NearestEngine(no_memory)])


def test_what_was_measured_in_8_bits_says_nothing_of_other_networks_and_precisions() -> None:
    quick = of_ours(precision="int8", network_seconds=10.0)
    exact = of_ours(precision="fp32", network_seconds=1_000.0, date="2020-01-01")
    work = imagined()

    def seconds(
        measurements: tuple[Measured, ...], model: str = OURS.name, precision: str = "auto"
    ) -> list[float]:
        question = Question(model=model, measurements=measurements, precision=precision)
        return [each.parts["compute"].seconds.likely for each in quotes_for(work, question)]  # type: ignore[arg-type]

    (in_8_bits,), (in_32_bits,) = seconds((quick,)), seconds((exact,))
    assert in_32_bits > 5 * in_8_bits
    # The last measurement is what auto does, unless the job asks for a precision.
    assert seconds((quick, exact)) == [in_8_bits]
    assert seconds((quick, exact), precision="fp32") == [in_32_bits]
    assert seconds((quick,), precision="fp32") == []
    other = "comic-best-x3"
    assert seconds((quick,), other) == []
    assert seconds((quick, exact), other) == seconds((exact,), other) != []
