"""Faces: found in a photograph, aligned, restored, put back without an edge; drawings are left alone."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from comic_upscale.engines.faces.alignment import SIDE, TEMPLATE, Alignment, cut, paste
from comic_upscale.engines.faces.detector import FaceDetector
from comic_upscale.engines.faces.filter import FaceFilter, why_not
from comic_upscale.engines.host_resample import resample_samples
from comic_upscale.engines.registry import check_remote
from comic_upscale.engines.torch.alone import OCCUPANCY
from comic_upscale.errors import DeviceError, SettingsError, WeightsError
from comic_upscale.imaging.pixels import Pixels, UInt8Array
from comic_upscale.jobs.run import run_job
from comic_upscale.models.face_restorer import FaceRestorer, load_face_restorer
from comic_upscale.planning.model_selection import job_fingerprint
from tests.conftest import LONG, MakeJob
from tests.fakes import NearestEngine

# Threads of small layers only wait for each other.
pytestmark = pytest.mark.usefixtures("one_thread")
skimage = pytest.importorskip("skimage", reason="scikit-image has the photograph")
EXAMPLES = sorted((Path(__file__).parents[2] / "examples" / "pages").glob("0*.png"))
EYES_NOSE_MOUTH = [(203, 102), (246, 103), (224, 128), (223, 148)]
"""In the photograph, read off by eye."""


@pytest.fixture(scope="module")
def photo() -> UInt8Array:
    """Eileen Collins, 1993, by NASA: in the public domain."""
    path = Path(skimage.__file__).parent / "data" / "astronaut.png"
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


@pytest.fixture
def weights(tiny_restorer: Path) -> Path:
    return tiny_restorer


def test_the_face_of_a_photograph_is_found_once_with_its_points(photo: UInt8Array) -> None:
    (face,) = FaceDetector().find(photo)
    assert face.score > 0.8
    assert np.abs(face.points - EYES_NOSE_MOUTH).max() < 8
    left, top, right, bottom = face.box
    assert 150 < left < 200 < 245 < right < 310 and 30 < top < 90 < 150 < bottom < 200


def test_a_small_face_on_a_large_page_is_found(photo: UInt8Array) -> None:
    page = np.full((560, 640, 3), 90, np.uint8)
    page[300:556, 340:596] = np.asarray(Image.fromarray(photo).resize((256, 256), Image.Resampling.BOX))
    found = FaceDetector().find(page)
    assert any(np.abs(face.points - (np.array(EYES_NOSE_MOUTH) / 2 + [340, 300])).max() < 8 for face in found)


def test_the_detector_computes_what_the_original_computes() -> None:
    # Recorded from TensorFlow Lite with the file of MediaPipe, for this picture.
    places = np.arange(256, dtype=np.float32)
    plane = np.sin(places[:, None] / 9) * np.cos(places[None, :] / 13)
    picture = torch.from_numpy(np.stack([plane, plane * 0.5, -plane])[None])
    numbers, scores = FaceDetector().run(picture)
    assert scores.shape == (1, 896) and numbers.shape == (1, 896, 16)
    recorded = json.loads(Path(__file__).with_name("blazeface.json").read_text())
    assert scores[0, ::64].tolist() == pytest.approx(recorded["scores"], abs=0.15, rel=0.01)
    assert numbers[0, 100].tolist() == pytest.approx(recorded["numbers"], abs=0.3, rel=0.01)


@pytest.mark.parametrize("scale", [0.9, 2.0, 5.0])
def test_an_aligned_face_has_its_points_where_the_network_expects_them(scale: float) -> None:
    turn = np.array([(np.cos(0.3), -np.sin(0.3)), (np.sin(0.3), np.cos(0.3))])
    points = (TEMPLATE - 256) @ turn.T / scale + 300
    alignment = Alignment.of(points)
    assert alignment.scale == pytest.approx(scale)
    moved = np.hstack([points, np.ones((4, 1))]) @ alignment.matrix.T
    assert np.abs(moved - TEMPLATE).max() < 1e-6


def test_a_face_that_is_put_back_unchanged_changes_nothing(photo: UInt8Array) -> None:
    page = resample_samples(photo, (1024, 1024)).astype(np.uint8)
    alignment = Alignment.of(np.array(EYES_NOSE_MOUTH) * 2.0)
    canvas = page.astype(np.float32)
    paste(canvas, cut(page, alignment).astype(np.float32), alignment, 1.0)
    assert np.abs(canvas - page).mean() < 0.3
    assert np.abs(canvas - page).max() < 40


def test_a_restored_face_fades_into_the_page(photo: UInt8Array) -> None:
    canvas = np.full((400, 400, 3), 100, np.float32)
    alignment = Alignment.of((TEMPLATE - 256) / 2 + 200)
    paste(canvas, np.full((SIDE, SIDE, 3), 200, np.float32), alignment, 0.5)
    assert canvas[200, 200, 0] == pytest.approx(150, abs=0.5)
    assert canvas[:60].max() == canvas[:, :60].max() == 100
    assert max(np.abs(np.diff(canvas, axis=axis)).max() for axis in (0, 1)) < 4


def test_a_face_at_the_edge_of_a_page_is_put_back(photo: UInt8Array) -> None:
    page = np.ascontiguousarray(photo[80:])
    alignment = Alignment.of(np.array(EYES_NOSE_MOUTH) - [0.0, 80.0])
    canvas = page.astype(np.float32)
    paste(canvas, cut(page, alignment).astype(np.float32), alignment, 1.0)
    assert np.abs(canvas - page).mean() < 1


def test_faces_of_a_photograph_are_restored_and_the_rest_stays(photo: UInt8Array, weights: Path) -> None:
    source, page = (
        Pixels(each.astype(np.uint16) * np.uint16(257))
        for each in (photo, resample_samples(photo, (1024, 1024)))
    )
    made = FaceFilter.open(weights, 0.7, "cpu").apply(page, source)
    assert made.notes == ("1 face restored",) and made.color.dtype == np.uint16
    changed = np.abs(made.color.astype(int) - page.color).max(axis=2) > 0
    rows, columns = np.nonzero(changed)
    assert changed.any() and rows.max() < 480 and columns.min() > 180 and columns.max() < 700


def test_a_face_with_more_pixels_than_the_network_draws_is_left(photo: UInt8Array, weights: Path) -> None:
    source = Pixels(photo[20:220, 120:340].copy())
    page = Pixels(resample_samples(source.color, (220 * 8, 200 * 8)))
    made = FaceFilter.open(weights, 1.0, "cpu").apply(page, source)
    assert made.color is page.color and "more pixels" in made.notes[-1]


def test_a_network_that_gives_no_numbers_changes_nothing(photo: UInt8Array) -> None:
    class Broken(torch.nn.Module):
        def forward(self, faces: torch.Tensor) -> torch.Tensor:
            return faces * torch.nan

    page = Pixels(resample_samples(photo[:256, 80:400], (640, 512)))
    restorer = FaceRestorer(Broken(), "RestoreFormer")
    made = FaceFilter(restorer, 1.0, torch.device("cpu")).apply(page, Pixels(photo[:256, 80:400]))
    assert made.color is page.color
    assert made.notes[-1] == "1 left as they are: the network gives numbers that are not finite"


def test_faces_count_on_their_device_while_they_are_restored(photo: UInt8Array) -> None:
    was_alone: list[bool] = []

    class Looking(torch.nn.Module):
        def forward(self, faces: torch.Tensor) -> torch.Tensor:
            with OCCUPANCY.batch_on(torch.device("cpu")) as is_alone:
                was_alone.append(is_alone())
            return faces

    page = Pixels(resample_samples(photo[:256, 80:400], (640, 512)))
    restore = FaceFilter(FaceRestorer(Looking(), "RestoreFormer"), 1.0, torch.device("cpu"))
    restore.apply(page, Pixels(photo[:256, 80:400]))
    assert was_alone and not any(was_alone)


def test_a_device_that_is_full_leaves_faces_and_a_lost_one_ends_the_run(photo: UInt8Array) -> None:
    class Failing(torch.nn.Module):
        words = "DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"

        def forward(self, faces: torch.Tensor) -> torch.Tensor:
            raise RuntimeError(self.words)

    network, page = Failing(), Pixels(photo[:256, 80:400])
    restore = FaceFilter(FaceRestorer(network, "RestoreFormer"), 1.0, torch.device("cpu"))
    made = restore.apply(page, page)
    assert made.color is page.color and made.notes == (
        "faces were left as they are: the device has too little memory",
    )
    network.words = "CUDA error: unspecified launch failure"
    with pytest.raises(DeviceError, match="launch failure"):
        restore.apply(page, page)


@pytest.mark.parametrize("fault", ["missing", "damaged", "other weights"])
def test_a_detector_without_its_weights_says_what_to_do(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    file = tmp_path / "blazeface-back.safetensors"
    if fault != "missing":
        save_file({"00.weight": torch.zeros(1)}, file)
    if fault == "damaged":
        file.write_bytes(file.read_bytes()[:-2])
    monkeypatch.setattr("comic_upscale.engines.faces.detector.weights_path", lambda: file)
    with pytest.raises(WeightsError, match="install comic-upscale again"):
        FaceFilter.open(weights, 0.5, "cpu")


@pytest.mark.skipif(not LONG, reason="writes and reads 350 MB: COMIC_UPSCALE_TEST_LONG=1")
def test_gfpgan_restores_a_face_alike_each_time(photo: UInt8Array, tmp_path: Path) -> None:
    """Its architecture has one size only."""
    from spandrel.architectures.GFPGAN import GFPGAN  # type: ignore[import-untyped]

    torch.manual_seed(2)
    torch.save(GFPGAN().state_dict(), tmp_path / "GFPGANv1.4.pth")
    restore, page = FaceFilter.open(tmp_path / "GFPGANv1.4.pth", 1.0, "cpu"), Pixels(photo[:256, 80:400])
    made, again = restore.apply(page, page), restore.apply(page, page)
    assert made.notes == ("1 face restored",)
    assert np.array_equal(made.color, again.color) and np.abs(made.color.astype(int) - page.color).max() > 5


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_drawn_pages_are_refused_with_the_reason(path: Path) -> None:
    with Image.open(path) as image:
        reason = why_not(np.asarray(image.convert("RGB")))
    assert reason is not None and ("drawn" in reason or "gray" in reason)


def test_a_gray_page_is_refused_with_the_reason(photo: UInt8Array) -> None:
    gray = photo.mean(axis=2, keepdims=True).astype(np.uint8)
    for page in (gray, np.repeat(gray, 3, axis=2)):
        assert "gray" in (why_not(page) or "")
    assert why_not(photo) is None


def test_a_run_restores_faces_and_another_file_is_another_job(
    photo: UInt8Array, weights: Path, make_job: MakeJob, tmp_path: Path
) -> None:
    (tmp_path / "in").mkdir()
    Image.fromarray(photo[:256, 80:400]).save(tmp_path / "in" / "photo.png")
    Image.open(EXAMPLES[0]).convert("RGB").crop((0, 0, 200, 200)).save(tmp_path / "in" / "page.png")
    Image.fromarray(photo[:256, 80:400]).convert("CMYK").save(tmp_path / "in" / "cmyk.tif")
    Image.fromarray(photo[:256, 80:400]).convert("L").save(tmp_path / "in" / "gray.png")
    Image.fromarray(photo[:1, :1]).save(tmp_path / "in" / "one.png")
    settings = make_job(face_model=weights, face_strength=0.5, gate=False)
    notes: dict[str, tuple[str, ...]] = {}

    def listen(event: object) -> None:
        if type(event).__name__ == "PageDone":
            notes[event.source] = event.notes  # type: ignore[attr-defined]

    result = run_job(settings, on_event=listen, open_engines=lambda *_: [NearestEngine()])
    assert result.done == 5
    assert all("1 face restored" in notes[name] for name in ("photo.png", "cmyk.tif"))
    for name, reason in (("page.png", "drawn"), ("gray.png", "gray"), ("one.png", "drawn")):
        assert any(note.startswith("faces were left") and reason in note for note in notes[name]), name
    prints = {
        job_fingerprint(each, "weights")
        for each in (settings, replace(settings, face_strength=0.6), replace(settings, face_model=None))
    }
    assert len(prints) == 3
    # By its content, not by its path.
    copy = tmp_path / "copy.pth"
    copy.write_bytes(weights.read_bytes())
    assert job_fingerprint(replace(settings, face_model=copy), "weights") in prints


def test_a_page_that_the_gate_rejects_is_made_without_its_faces(
    photo: UInt8Array, weights: Path, make_job: MakeJob, tmp_path: Path
) -> None:
    """Random weights draw noise in place of a face."""
    (tmp_path / "in").mkdir()
    Image.fromarray(photo[:256, 80:400]).save(tmp_path / "in" / "photo.png")
    notes: list[str] = []

    def listen(event: object) -> None:
        if type(event).__name__ == "PageDone":
            notes.extend(event.notes)  # type: ignore[attr-defined]

    run_job(
        make_job(face_model=weights, face_strength=1.0),
        on_event=listen,
        open_engines=lambda *_: [NearestEngine()],
    )
    run_job(make_job(output=tmp_path / "plain"), open_engines=lambda *_: [NearestEngine()])
    assert any("without filters" in note for note in notes) and "1 face restored" not in notes
    assert (tmp_path / "out" / "photo.png").read_bytes() == (tmp_path / "plain" / "photo.png").read_bytes()


def test_other_weights_are_refused(tiny_weights: Path, make_job: MakeJob, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="restores no faces"):
        load_face_restorer(tiny_weights)
    with pytest.raises(SettingsError, match="cannot be read"):
        job_fingerprint(make_job(face_model=tmp_path / "none.pth"), "weights")
    with pytest.raises(SettingsError, match="remote machine"):
        check_remote(make_job(face_model=tiny_weights))
