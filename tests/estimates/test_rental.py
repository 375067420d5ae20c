"""Offers are ranked by what the job costs, not by the price of an hour."""

from __future__ import annotations

from pathlib import Path

import pytest

from comic_upscale.costs.prices import listed_offers
from comic_upscale.costs.workload import Workload
from comic_upscale.estimates.assumed import AssumedPages, assume_pages
from comic_upscale.estimates.quotes import Question
from comic_upscale.estimates.rental import is_gpu, rank_offers
from comic_upscale.provisioning.base import RentalOffer
from comic_upscale.settings.job import JobSettings


@pytest.fixture
def work() -> Workload:
    pages = AssumedPages(count=10_000, width=512, height=768)
    return assume_pages([pages], JobSettings(input=Path("in"), output=Path("out")))


def listed() -> list[RentalOffer]:
    """The prices of the package as offers."""
    return [
        RentalOffer(
            provider="listed", id=f"{number}", gpu=offer.card, hour=offer.hour.likely, kind=offer.seller,
            egress_gb=offer.egress_gb.likely, vcpus=offer.vcpus,
        )
        for number, offer in enumerate(listed_offers())
    ]  # fmt: skip


def test_the_cheapest_hour_may_be_the_dearest_job(work: Workload) -> None:
    ranked = rank_offers(work, listed(), Question(model="RealESRGAN_x4plus_anime_6B", link_mbps=100))
    likely = [each.quote.dollars.likely for each in ranked if each.quote and each.quote.dollars]
    assert len(likely) == len(listed())
    assert likely == sorted(likely)
    by_hour = sorted(listed(), key=lambda offer: offer.hour)
    assert ranked[0].offer.gpu == "RTX 3090"
    assert by_hour[0].gpu == "T4"
    assert "T4" in {each.offer.gpu for each in ranked[-3:]}, "its traffic costs more than its hours"


def test_a_slower_connection_makes_the_price_of_an_hour_count_more(work: Workload) -> None:
    def place(gpu: str, mbps: float) -> int:
        question = Question(model="RealESRGAN_x4plus_anime_6B", link_mbps=mbps)
        ranked = rank_offers(work, [each for each in listed() if each.egress_gb < 0.05], question)
        return [each.offer.gpu for each in ranked].index(gpu)

    assert place("H100", 5000) <= place("H100", 20)


def test_traffic_to_the_machine_counts(work: Workload) -> None:
    offer = RentalOffer(provider="vast", id="1", gpu="RTX 4090", hour=0.3)
    dear = RentalOffer(provider="vast", id="2", gpu="RTX 4090", hour=0.3, ingress_gb=1.0)
    one, two = rank_offers(work, [dear, offer], Question(model="RealESRGAN_x4plus_anime_6B"))
    assert (one.offer, two.offer) == (offer, dear)
    assert one.quote and two.quote and one.quote.dollars and two.quote.dollars
    more = two.quote.dollars.likely - one.quote.dollars.likely
    assert more == pytest.approx(work.upload_bytes / 1e9)


def test_gpus_of_unknown_speed_come_last_by_their_price(work: Workload, tmp_path: Path) -> None:
    offers = [
        RentalOffer(provider="vast", id="1", gpu="CMP 50HX", hour=0.05),
        RentalOffer(provider="vast", id="2", gpu="Other", hour=0.02),
        RentalOffer(provider="vast", id="3", gpu="H100 SXM", hour=2.0),
    ]
    ranked = rank_offers(work, offers, Question(model="auto"))
    assert [each.offer.id for each in ranked] == ["3", "2", "1"]
    # Of the user's own network no speed is known at all.
    (tmp_path / "own.safetensors").write_bytes(b"weights")
    own = rank_offers(work, offers, Question(model=str(tmp_path / "own.safetensors")))
    assert [(each.offer.id, each.quote) for each in own] == [("2", None), ("1", None), ("3", None)]


@pytest.mark.parametrize(
    ("gpu", "wanted", "fits"),
    [
        ("NVIDIA GeForce RTX 4090", "4090", True),
        ("RTX 4090", "RTX 4090", True),
        ("A100 SXM4", "A100", True),
        ("NVIDIA A100 80GB PCIe", "a100", True),
        ("A10", "A100", False),
        ("A10G", "A10", False),
        ("RTX 4090", "3090", False),
        ("RTX 6000 Ada", "6000 ada", True),
    ],
)
def test_a_gpu_is_wanted_by_a_part_of_its_name(gpu: str, wanted: str, fits: bool) -> None:
    assert is_gpu(RentalOffer(provider="vast", id="1", gpu=gpu, hour=1), wanted) is fits
