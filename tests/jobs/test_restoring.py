"""Networks of 1x restore pages at their size; resampling gives them another one. ``--scale 1``."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from spandrel.architectures.Compact import Compact

from comic_upscale.engines.upscaler import Upscaler
from comic_upscale.estimates.workload import count_workload
from comic_upscale.execution.events import Event, JobStarted
from comic_upscale.jobs.run import run_job
from comic_upscale.ledger.records import PageDone
from comic_upscale.planning.preview import preview
from comic_upscale.settings.job import JobSettings
from comic_upscale.settings.sizes import Width
from tests.conftest import MakeJob
from tests.jobs.test_raw import plain_pass, read


@pytest.fixture(scope="module")
def restorer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A compact network of 1x that changes pages visibly, but not beyond recognition."""
    torch.manual_seed(22)
    state = Compact(num_feat=16, num_conv=2, upscale=1).state_dict()
    last = max(name for name in state if name.endswith(".weight") and state[name].dim() == 4)
    state[last] *= 0.3
    path = tmp_path_factory.mktemp("weights") / "restore-x1.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, path)
    return path


@pytest.fixture
def page(tmp_path: Path, comics_dir: Path) -> np.ndarray:
    """A part of a real page, in the input of `make_job`."""
    with Image.open(sorted((comics_dir / "dev").glob("climatefrogs*.jpg"))[0]) as image:
        page = np.asarray(image.convert("RGB").crop((0, 0, 150, 110)))
    (tmp_path / "in").mkdir()
    Image.fromarray(page).save(tmp_path / "in" / "page.png")
    return page


@pytest.fixture
def expected(page: np.ndarray, restorer: Path) -> np.ndarray:
    return plain_pass(restorer, page)


Made = tuple[list[Event], np.ndarray, JobSettings]


@pytest.fixture
def job(make_job: MakeJob, restorer: Path, page: np.ndarray) -> Iterator[JobSettings]:
    yield make_job(model=str(restorer), device="cpu", precision="fp32", scale=1.0, raw=True)


def run(settings: JobSettings) -> tuple[list[Event], np.ndarray]:
    events: list[Event] = []
    assert run_job(settings, on_event=events.append).done == 1
    return events, read(settings.output / "page.png")


@pytest.mark.parametrize("tile", [None, 64])
def test_a_page_is_restored_at_its_size(
    make_job: MakeJob, job: JobSettings, page: np.ndarray, expected: np.ndarray, tile: int | None
) -> None:
    events, made = run(
        make_job(model=job.model, device="cpu", precision="fp32", scale=1.0, raw=True, tile=tile)
    )
    assert made.shape == expected.shape == page.shape
    assert np.abs(made - expected.astype(int)).max() <= 1
    assert np.abs(expected.astype(int) - page).max() > 2, "the network does something"
    (done,) = [event for event in events if isinstance(event, PageDone)]
    assert done.seconds["upscale"] > 0
    with closing(sqlite3.connect(job.output / ".comic-upscale" / "ledger.sqlite3")) as ledger:
        assert ledger.execute("select scores from pages").fetchone()[0], "the gate has compared it"


@pytest.mark.parametrize("factor", [2.0, 1.5])
def test_a_larger_page_is_restored_and_then_resampled(
    make_job: MakeJob, job: JobSettings, expected: np.ndarray, factor: float
) -> None:
    events, made = run(make_job(model=job.model, device="cpu", precision="fp32", scale=factor, raw=True))
    size = (round(expected.shape[1] * factor), round(expected.shape[0] * factor))
    larger = np.asarray(Image.fromarray(expected).resize(size, Image.Resampling.LANCZOS)).astype(int)
    assert made.shape == larger.shape
    assert np.abs(made - larger).max() <= 2
    (started,) = [event for event in events if isinstance(event, JobStarted)]
    assert f"the network restores pages; resampling does the rest up to {factor:g}x" in started.warnings[0]


def test_a_smaller_page_is_restored_and_then_shrunk(
    make_job: MakeJob, job: JobSettings, expected: np.ndarray
) -> None:
    events, made = run(
        make_job(model=job.model, device="cpu", precision="fp32", scale=None, size=Width(75), raw=True)
    )
    smaller = np.asarray(Image.fromarray(expected).resize((75, 55), Image.Resampling.LANCZOS)).astype(int)
    assert np.abs(made - smaller).max() <= 2
    (done,) = [event for event in events if isinstance(event, PageDone)]
    assert "restored by the network, then shrunk by Lanczos" in done.notes


def test_at_scale_one_an_enlarging_network_is_not_used(make_job: MakeJob, page: np.ndarray) -> None:
    events, made = run(make_job(device="cpu", scale=1.0))
    assert np.array_equal(made, page)
    (started,) = [event for event in events if isinstance(event, JobStarted)]
    assert "at scale 1 this network, which enlarges 4x, is not used" in started.warnings[0]


def test_estimates_count_the_network_for_a_file_of_ones_own_at_scale_one(job: JobSettings) -> None:
    found = preview(job)
    assert found.pages[0].note is None
    assert count_workload(found, job).network_pixels == 150 * 110


def test_python_restores_an_image(restorer: Path, page: np.ndarray) -> None:
    with Upscaler(str(restorer), device="cpu") as upscaler:
        made = upscaler.upscale(page, 1)
        assert (upscaler.native_scale, made.size) == (1, (150, 110))
        assert not np.array_equal(np.asarray(made), page)
