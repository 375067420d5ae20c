"""Quotes are arithmetic that must hold for any numbers, over data that must say where it is from."""

from __future__ import annotations

import datetime as dt
import itertools
import tomllib
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comic_upscale.costs.prices import Offer, listed_offers, offers_for
from comic_upscale.costs.quote import PARTS, quote_here, quote_rented
from comic_upscale.costs.ranges import Range, product_of_independent, total
from comic_upscale.costs.rates import (
    PAGE_PIXELS,
    Measured,
    Network,
    computed_rate,
    find_card,
    known_cards,
    measured_rate,
    reference,
)
from comic_upscale.costs.workload import Workload, spread_sample
from comic_upscale.errors import SettingsError
from comic_upscale.imaging.codecs import FORMATS
from comic_upscale.models.catalogue import CATALOGUE

PAGE = 512 * 768
MODELS = sorted(CATALOGUE)
ENCODE = FORMATS["png"].assumed(None).seconds

amounts = st.floats(0, 1e6, allow_nan=False)
ranges = st.lists(amounts, min_size=3, max_size=3).map(lambda values: Range(*sorted(values)))
factors = st.lists(st.floats(0.01, 100), min_size=3, max_size=3).map(lambda values: Range(*sorted(values)))


def work(pages: int, **changes: object) -> Workload:
    some = Workload(
        pages=pages,
        network_pixels=pages * PAGE,
        output_pixels=pages * 1280 * 1920,
        upload_bytes=pages * 500_000,
        download_bytes=Range(2e6, 2.5e6, 3.3e6) * pages,
        download_basis="assumed",
        encode_seconds=ENCODE,
    )
    return replace(some, **changes)  # type: ignore[arg-type]


def network(model: str) -> Network:
    return Network(model=model, tflop_per_page=CATALOGUE[model].tflop_per_page)


def measured(**changes: object) -> Measured:
    values: dict[str, object] = {
        "hardware": "a card", "model": "m", "model_sha256": "1" * 64, "precision": "fp16", "origin": "bench",
        "date": "2026-11-21", "pages": 100, "network_pixels": 100 * PAGE, "output_pixels": 100 * 1280 * 1920,
        "output_bytes": 100 * 2_500_000, "format": "png", "network_seconds": 20.0, "host_seconds": 40.0,
        "whole_seconds": 22.0, "workers": 4, "tflop_per_page": 1.0,
    }  # fmt: skip
    return Measured(**{**values, **changes})  # type: ignore[arg-type]


def test_what_a_run_has_once_is_not_quoted_for_every_page_and_gaps_between_pages_are() -> None:
    # Ten pages: 1 s to fill and drain, 2 s late in the network, 8 s busy beside that, 3 s of gaps.
    found = measured(
        pages=10, network_pixels=10 * PAGE, network_seconds=10.0, host_seconds=1.0, devices=1, workers=1,
        whole_seconds=14.0, once_seconds=3.0, output_pixels=10 * 1280 * 1920,
    )  # fmt: skip
    seconds = measured_rate(found, Network(model="m", tflop_per_page=1.0)).seconds(work(60))
    assert seconds.likely == pytest.approx(3 + 60 * (8 + 3) / 10)
    assert seconds.low < seconds.likely < seconds.high
    unknown = measured_rate(replace(found, once_seconds=None), Network(model="m", tflop_per_page=1.0))
    assert unknown.seconds(work(60)).likely == pytest.approx(4 + 60 * 10 / 10)


@given(ranges, ranges)
def test_sums_and_maxima_stay_in_order(one: Range, other: Range) -> None:
    for result in (one + other, one.at_least(other), total([one, other])):
        assert result.low <= result.likely <= result.high
    assert (one + other).likely == one.likely + other.likely


@given(st.lists(factors, min_size=1, max_size=4))
def test_independent_doubts_widen_a_product_less_than_the_worst_of_all(some: list[Range]) -> None:
    product = product_of_independent(some)
    worst = some[0]
    for factor in some[1:]:
        worst = worst * factor
    assert worst.low <= product.low * (1 + 1e-9)
    assert product.low <= product.likely <= product.high
    assert product.high <= worst.high * (1 + 1e-9)
    assert product.likely == pytest.approx(worst.likely)


def test_a_range_out_of_order_is_refused() -> None:
    for low, likely, high in ((2, 1, 3), (1, 3, 2), (-1, 0, 1), (0, 1, float("inf"))):
        with pytest.raises(ValueError, match="not a range"):
            Range(low, likely, high)


@pytest.mark.parametrize(("model", "card"), list(itertools.product(MODELS, known_cards())))
def test_every_model_can_be_quoted_on_every_card(model: str, card: str) -> None:
    rate = computed_rate(card, network(model), encode_seconds=ENCODE)
    some = rate.seconds(work(100))
    assert 0 < some.low < some.likely < some.high
    assert rate.basis == "computed"
    assert rate.source.startswith("computed from")


@given(
    st.sampled_from(MODELS), st.sampled_from(listed_offers()), st.integers(0, 20_000), st.integers(1, 20_000),
    st.sampled_from([None, 20.0, 1000.0]),
)  # fmt: skip
def test_the_split_sums_to_the_total_and_more_pages_cost_more(
    model: str, offer: Offer, pages: int, more: int, mbps: float | None
) -> None:
    rate = computed_rate(offer.card, network(model), encode_seconds=ENCODE, workers=offer.vcpus)
    small, large = (
        quote_rented(work(count), rate, offer, hardware=offer.card, model=model, link_mbps=mbps)
        for count in (pages, pages + more)
    )
    for quote in (small, large):
        assert tuple(quote.parts) == PARTS
        assert quote.dollars is not None
        for end in ("low", "likely", "high"):
            seconds = sum(getattr(part.seconds, end) for part in quote.parts.values())
            paid = sum(getattr(part.dollars, end) for part in quote.parts.values())
            assert getattr(quote.seconds, end) == pytest.approx(seconds)
            assert getattr(quote.dollars, end) == pytest.approx(paid)
        assert quote.dollars.low <= quote.dollars.likely <= quote.dollars.high
    for end in ("low", "likely", "high"):
        assert getattr(small.dollars, end) < getattr(large.dollars, end)
        assert getattr(small.seconds, end) < getattr(large.seconds, end)


@given(st.integers(1, 10_000), st.integers(1, 10_000))
def test_a_measured_machine_is_quoted_within_its_range_and_grows_with_pages(pages: int, more: int) -> None:
    rate = measured_rate(measured(), Network(model="m", tflop_per_page=1.0, identity="1" * 64))
    here = quote_here(work(pages), rate, hardware="a card", model="m")
    assert here.dollars is None
    assert not here.is_over(0.0)
    assert here.seconds.likely < quote_here(work(pages + more), rate, hardware="", model="m").seconds.likely


def test_the_measured_work_again_is_quoted_at_the_measured_time() -> None:
    for changes in ({}, {"host_seconds": 84.0}, {"network_seconds": 40.0, "devices": 2}):
        found = measured(**changes)
        rate = measured_rate(found, Network(model="m", tflop_per_page=1.0))
        assert rate.seconds(work(100)).likely == pytest.approx(found.whole_seconds)
        twice = rate.seconds(work(200)).likely
        assert found.whole_seconds < twice < 2 * found.whole_seconds, "filling the pipeline happens once"


def test_workers_that_are_slower_than_the_network_hold_it_back() -> None:
    rate = measured_rate(measured(), Network(model="m", tflop_per_page=1.0))
    usual = rate.seconds(work(1000)).likely
    large = rate.seconds(work(1000, output_pixels=1000 * 10 * 1280 * 1920)).likely
    assert large > 2 * usual


def test_another_model_goes_by_the_ratio_of_arithmetic_and_says_so() -> None:
    rate = measured_rate(measured(), Network(model="other", tflop_per_page=10.0))
    same = measured_rate(measured(), Network(model="m", tflop_per_page=1.0))
    assert rate.seconds_per_pixel.likely == pytest.approx(10 * same.seconds_per_pixel.likely)
    assert rate.basis == "computed"
    assert "by the ratio of arithmetic" in rate.source
    with pytest.raises(SettingsError, match="--pilot"):
        measured_rate(measured(), Network(model="other", tflop_per_page=None))


def test_the_quotes_are_of_a_size_that_can_be() -> None:
    """A slip of a unit is a thousandfold: ten thousand pages are hours at most, and no less than writing them."""
    for card, model, workers in itertools.product(known_cards(), MODELS, (4, 16)):
        seconds = computed_rate(card, network(model), encode_seconds=ENCODE, workers=workers).seconds(
            work(10_000)
        )
        writing = 10_000 * 2.4576 * ENCODE.likely / workers
        assert writing <= seconds.likely < 36 * 3600, (card, model)
    # Eight workers write 10,000 pages of 2.46 megapixels in some minutes, on an assumed processor.
    other = reference()["host"]["other_processor"]["likely"]
    assert computed_rate("H100", network("comic-compact-x3"), encode_seconds=ENCODE, workers=8).seconds(
        work(10_000)
    ).likely == pytest.approx(10_000 * 2.4576 * ENCODE.likely * other / 8, rel=0.01)


def test_half_the_workers_of_a_quick_network_take_twice_the_time() -> None:
    four, eight = (
        computed_rate("RTX 4090", network("comic-compact-x3"), encode_seconds=ENCODE, workers=count).seconds(
            work(10_000)
        )
        for count in (4, 8)
    )
    assert four.likely == pytest.approx(2 * eight.likely)


@pytest.mark.parametrize(
    ("said", "card"),
    [
        ("NVIDIA GeForce RTX 4090", "RTX 4090"), ("Tesla T4", "T4"), ("t4", "T4"), ("NVIDIA A100-SXM4-80GB", "A100"),
        ("NVIDIA H100 80GB HBM3", "H100"), ("NVIDIA L40S", "L40S"), ("NVIDIA L4", "L4"), ("RTX 4090 Ti", None),
        ("NVIDIA H20", None), ("", None),
    ],
)  # fmt: skip
def test_cards_are_known_by_what_drivers_and_people_call_them(said: str, card: str | None) -> None:
    assert find_card(said) == card


def test_every_figure_says_where_it_is_from_and_when() -> None:
    data = reference()
    for entry in (*data["published"], data["torch_over_tensorrt"], data["host"], data["link"], data["start_up"],
                  *data["measured"], data["other_machine"], data["narrow"],
                  data["other_kind"], data["peak"], data["workers"]):  # fmt: skip
        assert entry["source"]
        assert isinstance(entry["date"], dt.date)
    for entry in data["published"]:
        assert entry["url"].startswith("https://")
        assert entry["card"] in known_cards()
    assert {entry["model"] for entry in data["network"]} == set(CATALOGUE)
    for offer in listed_offers():
        assert offer.card in known_cards()
        assert "seen 2026-" in offer.source


def test_a_measured_gpu_is_not_computed_from_published_rates() -> None:
    for model, seconds in (("comic-compact-x3", 0.0025), ("RealESRGAN_x4plus_anime_6B", 0.0235)):
        rate = computed_rate("H100", network(model), encode_seconds=ENCODE)
        assert "measured" in rate.source
        page = rate.seconds_per_pixel * PAGE_PIXELS
        assert page.low < seconds < page.high
        assert page.likely == pytest.approx(seconds, rel=0.1)


def test_the_published_arithmetic_is_that_of_the_catalogue() -> None:
    # 4x RRDB-23 is RealESRGAN_x4plus; at 512 x 512 instead of 512 x 768.
    for entry in reference()["published"]:
        if entry["kind"] == "rrdb":
            assert entry["tflop"] == pytest.approx(
                CATALOGUE["RealESRGAN_x4plus"].tflop_per_page * 2 / 3, rel=0.01
            )


def test_the_host_rate_is_the_measured_one() -> None:
    import json

    results = Path(__file__).parents[2] / "benchmarks" / "results" / "host_work-cpu.json"
    if not results.is_file():
        pytest.skip("the benchmarks' results are not in this tree")
    measured_here = json.loads(results.read_text(encoding="utf-8"))
    assert reference()["host"]["decode_seconds"] == measured_here["decode_seconds_a_megapixel"]


def test_a_gpu_waits_for_the_workers_if_a_format_is_slow() -> None:
    quick, slow = (
        computed_rate("H100", network("comic-compact-x3"), encode_seconds=ENCODE * factor, workers=1)
        for factor in (1, 10)
    )
    assert slow.host_seconds_per_pixel.likely == pytest.approx(10 * quick.host_seconds_per_pixel.likely)
    assert slow.seconds(work(100)).likely > 5 * quick.seconds(work(100)).likely
    assert slow.seconds_per_pixel == quick.seconds_per_pixel


def test_a_measurement_in_another_format_counts_for_the_network_as_it_is_and_for_the_workers_by_the_ratio() -> (
    None
):
    found = measured(host_seconds=200.0)
    same, other = (
        measured_rate(found, Network(model="m", tflop_per_page=1.0), encoding=ratio) for ratio in (1.0, 3.0)
    )
    assert other.seconds_per_pixel == same.seconds_per_pixel
    assert other.host_seconds_per_pixel.likely == pytest.approx(3 * same.host_seconds_per_pixel.likely)
    assert other.host_seconds_per_pixel.low < 3 * same.host_seconds_per_pixel.low
    assert "written as png" not in same.source
    assert "written as png: workers scaled by the ratio of the formats" in other.source


def test_the_users_own_prices_stand_in_place_of_ours(tmp_path: Path) -> None:
    own = tmp_path / "prices.toml"
    own.write_text('[[offer]]\ncard = "NVIDIA RTX 4090"\nhour = 0.2\ndate = 2026-11-21\n', encoding="utf-8")
    offers = listed_offers(own)
    (mine,) = offers_for("RTX 4090", offers)
    assert (mine.hour, mine.seller) == (Range.exactly(0.2), "your list")
    assert offers_for("RTX 3090", offers) == offers_for("RTX 3090", listed_offers())


@pytest.mark.parametrize(
    "text",
    ["[[offer]]", '[[offer]]\ncard="x"\nhour=[2,1]\ndate=2026-11-21', '[[offer]]\ncard="x"\nhour="a"\ndate=2026-11-21',
     "not toml at all", '[[offer]]\ncard="x"\nhour=1\ndate="soon"',
     '[[offer]]\ncard="x"\nhour=1\nvcpus=0\ndate=2026-11-21'],
)  # fmt: skip
def test_a_price_list_that_is_none_is_refused_by_name(tmp_path: Path, text: str) -> None:
    own = tmp_path / "mine.toml"
    own.write_text(text, encoding="utf-8")
    with pytest.raises(SettingsError, match=r"mine\.toml"):
        listed_offers(own)


def test_the_data_files_are_plain_toml() -> None:
    for name in ("rates.toml", "prices.toml"):
        assert tomllib.loads(files("comic_upscale.costs").joinpath(name).read_text(encoding="utf-8"))


@given(st.lists(st.integers(1, 10**8), min_size=1, max_size=200), st.integers(1, 30))
def test_a_sample_is_spread_over_the_sizes(sizes: list[int], count: int) -> None:
    chosen = spread_sample(sizes, count)
    assert chosen == sorted(set(chosen))
    assert len(chosen) == min(count, len(sizes))
    if count >= 3 and len(sizes) >= 3 * count:
        # As many from the lower half of the sizes as from the upper one, but for one.
        ranks = {place: rank for rank, place in enumerate(sorted(range(len(sizes)), key=sizes.__getitem__))}
        low = sum(ranks[place] < len(sizes) / 2 for place in chosen)
        assert abs(2 * low - len(chosen)) <= 2


def test_a_sample_of_equal_pages_is_spread_over_the_input() -> None:
    assert spread_sample([7] * 100, 4) == [12, 37, 62, 87]


def test_the_kind_of_every_network_of_the_catalogue_is_known() -> None:
    assert {entry["model"] for entry in reference()["network"]} == set(CATALOGUE)
