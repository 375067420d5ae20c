"""The model of a job that was left to us: chosen once, told, recorded, kept."""

from __future__ import annotations

import importlib.util
import platform
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
import torch

from comic_upscale.engines import presence
from comic_upscale.engines.torch import device
from comic_upscale.errors import DeviceError, SettingsError
from comic_upscale.execution.events import Event, JobFinished, JobStarted
from comic_upscale.jobs.run import run_job
from comic_upscale.ledger.status import read_status
from comic_upscale.models.weights import ResolvedWeights, resolve_weights
from comic_upscale.planning.preview import count_replaced, preview
from comic_upscale.settings.job import JobSettings
from tests.conftest import MakeSettings, draw
from tests.fakes import NearestEngine

OWN, LARGE, BEFORE = "comic-fast-x3", "comic-best-x3", "comic-compact-x3"
"""The choice on a CPU, that on a GPU, and that of the versions before."""


class Ran:
    """One run over a fake engine: how it ended, what it said, and which weights the engine was given."""

    def __init__(self, settings: JobSettings) -> None:
        self.events: list[Event] = []
        self.weights: list[ResolvedWeights] = []

        def open_engines(_: JobSettings, weights: ResolvedWeights) -> list[NearestEngine]:
            self.weights.append(weights)
            return [NearestEngine()]

        self.finished: JobFinished = run_job(
            settings,
            open_engines=open_engines,  # type: ignore[arg-type]
            on_event=self.events.append,
        )
        self.started = next(event for event in self.events if isinstance(event, JobStarted))
        self.done_now = self.finished.done_now

    @property
    def model(self) -> str:
        """The model of the header, which is the one of the engine."""
        assert [weights.model_name for weights in self.weights] in ([], [self.started.model])
        return self.started.model


def bundled_weights() -> Path:
    return resolve_weights(OWN, denoise=None, folders=[], cache=Path()).path


def jobs(settings: JobSettings) -> list[tuple[str, int]]:
    connection = sqlite3.connect(settings.ledger_path)
    rows = connection.execute("select model, model_auto from jobs order by id").fetchall()
    connection.close()
    return rows


@pytest.fixture
def make_auto(make_settings: MakeSettings) -> Callable[..., JobSettings]:
    """Settings that leave the model to us, on a CPU."""

    def make(**changes: object) -> JobSettings:
        values = {"model": "auto", "device": "cpu"}
        return make_settings(**{**values, **changes})

    return make


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which every device but the CPU is there."""
    monkeypatch.setattr(
        device, "choose_device", lambda name: torch.device("cpu" if name == "cpu" else "cuda:0")
    )


@pytest.fixture
def no_question(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Call it, and from then on no device may be asked for."""

    def refuse(name: str) -> torch.device:
        raise AssertionError(f"the device {name} was asked for")

    return lambda: monkeypatch.setattr(device, "choose_device", refuse)


def test_auto_is_the_default(tmp_path: Path) -> None:
    assert JobSettings(input=tmp_path / "in", output=tmp_path / "out").model == "auto"


def test_a_cpu_gets_the_model_of_the_package(make_auto: Callable[..., JobSettings]) -> None:
    settings = make_auto()
    ran = Ran(settings)
    assert (ran.model, ran.started.model_auto, ran.started.warnings) == (OWN, True, ())
    assert jobs(settings) == [(OWN, 1)]
    status = read_status(settings.ledger_path)
    assert (status.model, status.model_auto) == (OWN, True)


@pytest.mark.parametrize(
    ("settings_text", "shown"),
    [
        ('{"denoise": 0.25}', 0.25), ('{"denoise": 1}', 1), ('{"denoise": null}', None), ("{}", None),
        ('{"denoise": true}', None), ('{"denoise": NaN}', None), ('{"denoise": 1e999}', None),
        ('{"denoise": "0.5"}', None), ('{"denoise": 3}', None),
    ],
)  # fmt: skip
def test_status_shows_the_strength_that_a_damaged_ledger_may_not_have(
    make_auto: Callable[..., JobSettings], settings_text: str, shown: float | None
) -> None:
    settings = make_auto()
    Ran(settings)
    with closing(sqlite3.connect(settings.ledger_path)) as connection, connection:
        connection.execute("update jobs set settings = ?", [settings_text])
    assert read_status(settings.ledger_path).denoise == shown


def test_a_named_model_is_not_said_to_be_chosen(make_auto: Callable[..., JobSettings]) -> None:
    settings = make_auto(model=OWN)
    assert Ran(settings).started.model_auto is False
    assert read_status(settings.ledger_path).model_auto is False


def test_a_gpu_gets_the_large_model(make_auto: Callable[..., JobSettings], card: None) -> None:
    ran = Ran(make_auto(device="auto"))
    assert (ran.model, ran.started.model_auto, ran.started.warnings) == (LARGE, True, ())


def test_a_cpu_beside_a_gpu_gets_the_model_of_the_package(
    make_auto: Callable[..., JobSettings], card: None
) -> None:
    assert Ran(make_auto(device="cuda,cpu")).model == OWN


def test_a_job_keeps_its_model_on_another_device(
    make_auto: Callable[..., JobSettings], no_question: Callable[[], None]
) -> None:
    settings = make_auto()
    Ran(settings)
    draw(settings.input / "more.png", 99)
    no_question()
    ran = Ran(make_auto(device="cuda"))
    assert (ran.model, ran.started.model_auto, ran.done_now) == (OWN, True, 1)
    assert jobs(settings) == [(OWN, 1)]


def test_a_job_that_began_on_a_gpu_keeps_the_large_model_on_a_cpu(
    make_auto: Callable[..., JobSettings], card: None, no_question: Callable[[], None]
) -> None:
    settings = make_auto(device="cuda")
    Ran(settings)
    draw(settings.input / "more.png", 99)
    no_question()
    ran = Ran(make_auto(device="cpu"))
    assert (ran.model, ran.done_now) == (LARGE, 1)


def test_naming_the_model_that_was_chosen_is_the_same_job(
    make_auto: Callable[..., JobSettings], card: None
) -> None:
    settings = make_auto()
    Ran(settings)
    assert Ran(make_auto(model=OWN)).done_now == 0
    assert jobs(settings) == [(OWN, 1)]
    # And it stays the one that auto goes on with.
    ran = Ran(make_auto(device="cuda"))
    assert (ran.model, ran.done_now) == (OWN, 0)


def test_auto_that_comes_to_the_model_that_was_named_is_the_same_job(
    make_auto: Callable[..., JobSettings], card: None
) -> None:
    settings = make_auto(model=OWN)
    Ran(settings)
    assert Ran(make_auto()).done_now == 0
    assert Ran(make_auto(device="cuda")).done_now == 0
    assert jobs(settings) == [(OWN, 1)]


def test_only_another_name_changes_the_model(make_auto: Callable[..., JobSettings]) -> None:
    settings = make_auto()
    Ran(settings)
    ran = Ran(make_auto(model=LARGE))
    assert (ran.model, ran.done_now) == (LARGE, 12)
    assert jobs(settings) == [(OWN, 1), (LARGE, 0)]


def test_a_model_that_was_only_ever_named_is_not_kept(make_auto: Callable[..., JobSettings]) -> None:
    settings = make_auto(model=LARGE)
    Ran(settings)
    ran = Ran(make_auto())
    assert (ran.model, ran.done_now) == (OWN, 12)
    assert jobs(settings) == [(LARGE, 0), (OWN, 1)]


def test_a_job_that_began_with_the_file_of_the_package_is_continued(
    make_auto: Callable[..., JobSettings],
) -> None:
    # By path its model is called after the file; that is no name of the catalogue.
    path = str(bundled_weights())
    assert Ran(make_auto(model=path)).model == f"{OWN}.safetensors"
    for _ in range(2):
        assert Ran(make_auto()).done_now == 0


def test_other_settings_are_another_job_and_another_choice(
    make_auto: Callable[..., JobSettings], card: None
) -> None:
    Ran(make_auto(scale=2))
    assert Ran(make_auto(scale=3, device="cuda")).model == LARGE


def test_auto_takes_the_network_of_the_factor(make_auto: Callable[..., JobSettings]) -> None:
    assert preview(make_auto(scale=2)).model == "comic-fast-x2"
    assert Ran(make_auto(scale=2)).model == "comic-fast-x2"


def test_a_job_of_an_earlier_version_keeps_the_model_that_it_chose(
    make_auto: Callable[..., JobSettings],
) -> None:
    settings = make_auto(model=BEFORE)
    Ran(settings)
    with closing(sqlite3.connect(settings.ledger_path)) as connection, connection:
        connection.execute("update jobs set model_auto = 1")
    ran = Ran(make_auto())
    assert (ran.model, ran.started.model_auto, ran.done_now) == (BEFORE, True, 0)


def test_folders_that_were_moved_keep_their_model(
    make_auto: Callable[..., JobSettings], card: None, tmp_path: Path
) -> None:
    settings = make_auto()
    Ran(settings)
    settings.input.rename(tmp_path / "moved")
    settings.output.rename(tmp_path / "moved-out")
    ran = Ran(make_auto(input=tmp_path / "moved", output=tmp_path / "moved-out", device="cuda"))
    assert (ran.model, ran.finished.done, ran.finished.failed) == (OWN, 12, 0)


def test_a_ledger_from_before_auto_is_read_and_brought_up_to_date(
    make_auto: Callable[..., JobSettings],
) -> None:
    settings = make_auto(model=OWN)
    Ran(settings)
    connection = sqlite3.connect(settings.ledger_path)
    connection.execute("alter table jobs drop column model_auto")
    connection.execute("delete from _sqlite_migrations where name = 'm002_model_auto'")
    connection.commit()
    connection.close()
    assert read_status(settings.ledger_path).model_auto is False
    assert preview(make_auto()).counts == {"done": 12}
    assert Ran(make_auto()).done_now == 0
    assert jobs(settings) == [(OWN, 1)]


def test_a_preview_asks_no_device(
    make_auto: Callable[..., JobSettings], no_question: Callable[[], None]
) -> None:
    planned = preview(make_auto(device="cpu"))
    assert (planned.model, planned.model_auto, planned.counts) == (OWN, True, {"do": 12})
    settings = make_auto()
    Ran(settings)
    no_question()
    planned = preview(make_auto(device="cuda"))
    assert (planned.model, planned.model_auto, planned.counts) == (OWN, True, {"done": 12})
    # A run on a GPU that is not there is refused.
    planned = preview(make_auto(device="cuda", scale=3))
    assert (planned.model, planned.model_auto, planned.counts) == (LARGE, True, {"do": 12})


@pytest.fixture
def no_card(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine with Linux and without a GPU."""
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    monkeypatch.setattr(presence, "_DEVICES", tmp_path)


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch, no_card: None, tmp_path: Path) -> None:
    """A machine with the driver of a GPU, which may not work, and with torch for GPUs."""
    (tmp_path / "nvidiactl").touch()
    monkeypatch.setattr(presence, "_torch_may_use_gpu", lambda: True)


def test_without_a_gpu_a_preview_knows_the_model(
    make_auto: Callable[..., JobSettings], no_card: None
) -> None:
    Ran(make_auto(model=OWN))
    planned = preview(make_auto(device="auto"))
    assert (planned.model, planned.counts, planned.replaced) == (OWN, {"done": 12}, 0)
    planned = preview(make_auto(device="auto", scale=2.4))
    assert (planned.model, planned.counts, planned.replaced) == (OWN, {"do": 12}, 12)


def test_a_preview_says_both_where_only_the_run_knows(
    make_auto: Callable[..., JobSettings], driver: None
) -> None:
    assert preview(make_auto(device="auto")).warnings == ()
    Ran(make_auto(model=LARGE))
    planned = preview(make_auto(device="auto"))
    assert (planned.model, planned.counts, planned.replaced) == ("auto", {"done": 12}, 0)
    assert planned.warnings == (
        "this is the plan for a GPU, and only the run checks the devices: on a CPU, its model is comic-fast-x3, and it "
        "replaces 12 finished outputs",
    )
    # With other settings, it replaces all of them on either.
    planned = preview(make_auto(device="auto", scale=2.4))
    assert (planned.replaced, planned.warnings) == (12, ())


def test_a_preview_for_another_machine_looks_at_no_driver_of_this_one(
    make_auto: Callable[..., JobSettings], no_card: None
) -> None:
    assert preview(make_auto(device="auto"), here=False).model == "auto"
    assert preview(make_auto(device="cpu"), here=False).model == OWN


def test_outputs_that_auto_would_replace_are_counted_as_the_run_finds_its_devices(
    make_auto: Callable[..., JobSettings], card: None, no_card: None
) -> None:
    Ran(make_auto(model=OWN))
    # The driver is not what decides: these are the devices that the run finds.
    assert count_replaced(make_auto(device="auto")) == 12
    assert count_replaced(make_auto(device="cpu")) == 0
    assert count_replaced(make_auto(device="cpu", scale=2)) == 12
    # Another machine may have a GPU.
    assert count_replaced(make_auto(device="auto"), here=False) == 12


def test_torch_for_the_cpu_finds_no_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(platform, "system", lambda: "Windows")
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").touch()
    spec = importlib.util.spec_from_file_location("torch", tmp_path / "torch" / "__init__.py")
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: spec)
    version = tmp_path / "torch" / "version.py"
    version.write_text(
        "__version__ = '2.6.0'\ncuda = None\nhip: Optional[str] = None\nxpu: Optional[str] = None\n"
    )
    assert presence.foresee_accelerator("auto") is False
    version.write_text(
        "__version__ = '2.6.0+cu128'\ncuda: Optional[str] = '12.8'\nhip: Optional[str] = None\n"
    )
    assert presence.foresee_accelerator("auto") is None
    assert (presence.foresee_accelerator("cuda:1"), presence.foresee_accelerator("cuda,cpu")) == (True, False)


def test_a_job_with_a_denoise_strength_keeps_its_model(
    make_auto: Callable[..., JobSettings], card: None, no_question: Callable[[], None]
) -> None:
    settings = make_auto(device="cuda", denoise=0.5)
    ran = Ran(settings)
    assert (ran.model, ran.started.model_auto) == (LARGE, True)
    assert ran.weights[0].denoise_path is not None
    draw(settings.input / "more.png", 99)
    no_question()
    ran = Ran(make_auto(denoise=0.5))
    assert (ran.model, ran.started.model_auto, ran.done_now) == (LARGE, True, 1)
    # By its own name it is the same job.
    assert Ran(make_auto(model=LARGE, denoise=0.5)).done_now == 0
    assert jobs(settings) == [(LARGE, 1)]


def test_another_denoise_strength_is_another_job_and_another_choice(
    make_auto: Callable[..., JobSettings], card: None
) -> None:
    settings = make_auto(device="cuda", denoise=0.5)
    Ran(settings)
    for denoise in (None, 0.75, 1.0):
        assert Ran(make_auto(denoise=denoise)).model == OWN
    assert [model for model, _ in jobs(settings)] == [LARGE, OWN, OWN, OWN]


def test_a_denoise_strength_out_of_range_is_refused_before_anything_is_written(
    make_auto: Callable[..., JobSettings],
) -> None:
    settings = make_auto()
    object.__setattr__(settings, "denoise", 1.5)
    with pytest.raises(SettingsError, match="between 0 and 1"):
        run_job(settings)
    assert not settings.output.exists()


def test_a_device_that_is_not_there_starts_no_job(make_auto: Callable[..., JobSettings]) -> None:
    settings = make_auto(device="cuda:4000")
    with pytest.raises(DeviceError, match="cuda:4000"):
        run_job(settings)
    assert jobs(settings) == []
    assert Ran(make_auto()).finished.done == 12


@pytest.mark.parametrize(("scale", "network"), [(2, "comic-fast-x2"), (2.5, "comic-fast-x3")])
def test_a_family_stands_for_the_network_of_its_factor(
    make_auto: Callable[..., JobSettings], scale: float, network: str
) -> None:
    settings = make_auto(model="comic-fast", scale=scale)
    assert preview(settings).model == network
    ran = Ran(settings)
    assert (ran.model, ran.started.model_auto) == (network, False)
    # By its own name it is the same job.
    assert Ran(make_auto(model=network, scale=scale)).done_now == 0
    assert jobs(settings) == [(network, 0)]
