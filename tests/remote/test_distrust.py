"""Another machine may say and send what it likes: nothing of it becomes a path, a wrong page or a control character."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest
from PIL import Image

from comic_upscale.jobs.elsewhere import Device, Elsewhere, FarPage, News
from comic_upscale.jobs.progress import JobFinished
from comic_upscale.jobs.run import run_job
from comic_upscale.models.weights import ResolvedWeights
from comic_upscale.remote.check import read_findings
from comic_upscale.remote.listing import is_page_name, read_lines
from comic_upscale.settings import JobSettings
from tests.jobs.conftest import draw

NAME = f"{'a' * 64}.png"
DONE = {
    "source": NAME, "state": "done", "at": "2026-01-01T00:00:00Z", "width": 10, "height": 20, "output_width": 25,
    "output_height": 50, "output_size": 100, "output_sha256": "b" * 64,
}  # fmt: skip


def test_a_line_that_is_as_it_should_be() -> None:
    ((page, at),) = read_lines(json.dumps(DONE))
    assert (page.name, page.state, page.size, page.sha256) == (NAME, "done", 100, "b" * 64)
    assert at == "2026-01-01T00:00:00Z"


@pytest.mark.parametrize(
    "change",
    [
        {"source": "../../.ssh/authorized_keys"},
        {"source": f"{'a' * 64}.png/../../x"},
        {"source": f"/{'a' * 64}.png"},
        {"source": f"{'a' * 64}.png\n"},
        {"source": ["x"]},
        {"state": "working"},
        {"output_sha256": "short"},
        {"output_sha256": None},
    ],
)
def test_lines_that_are_left_out(change: dict[str, object]) -> None:
    assert not list(read_lines(json.dumps({**DONE, **change})))


def test_rubbish_and_control_characters() -> None:
    lines = [
        "[" * 100_000,
        "null",
        "{",
        "\x00",
        json.dumps([1]),
        json.dumps({**DONE, "notes": "\x1b]0;evil\x07" * 999}),
    ]
    ((page, _),) = read_lines("\n".join(lines))
    assert page.notes.isprintable()
    assert len(page.notes) <= 500
    bad = {**DONE, "width": -1, "output_size": 10**30, "decode_seconds": float("nan"), "height": True}
    ((page, _),) = read_lines(json.dumps(bad))
    assert (page.width, page.size, page.height, dict(page.seconds)) == (0, 0, 0, {})


def test_names_of_pages() -> None:
    assert is_page_name(NAME)
    assert not is_page_name("page.png")
    assert not is_page_name(f"{'A' * 64}.png")


def test_a_probe_that_lies() -> None:
    assert read_findings("hello\n") is None
    text = "\n".join(
        f"comic-upscale-probe {line}"
        for line in ("system=Linux x", "free_kib=many", "gpu=a,b", "python=relative|3.11.1|||1", "python=/x|9|||1",
                     "python=/usr/bin/python3|3.12.1|2.9|12.8|1", "gpu=RTX, 24564, 570.1", "missing=flock")
    )  # fmt: skip
    found = read_findings(text)
    assert found is not None
    assert (found.free_bytes, len(found.gpus), len(found.pythons)) == (0, 2 - 1, 1)
    assert any("flock" in complaint for complaint in found.complaints())
    assert found.python is not None


class HostileWorkplace:
    """A machine that has every page at once, and lies about them as it is told."""

    def __init__(self, **lies: object) -> None:
        self.lies = lies
        self.names: dict[str, bytes] = {}
        self.outputs: dict[str, bytes] = {}
        self.forgotten: list[str] = []

    def has_accelerator(self) -> bool:
        return False

    def prepare(self, weights: ResolvedWeights, fingerprint: str, settings: JobSettings) -> Device:
        return Device("hostile")

    def held(self) -> frozenset[str]:
        return frozenset(self.names)

    def send(self, pages: Sequence[tuple[str, bytes]]) -> None:
        self.names.update(pages)

    def forget(self, names: Iterable[str]) -> None:
        self.forgotten += names

    def start(self, *, retry_failed: bool) -> None:
        return None

    def news(self) -> News:
        pages = []
        for name, data in self.names.items():
            with Image.open(io.BytesIO(data)) as image:
                size = image.size
                larger = image.resize((size[0] * 2, size[1] * 2))
            written = io.BytesIO()
            larger.save(written, "png")
            output = written.getvalue()
            self.outputs[f"{name.partition('.')[0]}.png"] = output
            said: dict[str, object] = {
                "name": name, "state": "done", "width": size[0], "height": size[1], "output_width": size[0] * 2,
                "output_height": size[1] * 2, "size": len(output), "sha256": hashlib.sha256(output).hexdigest(),
            }  # fmt: skip
            pages.append(FarPage(**{**said, **self.lies}))  # type: ignore[arg-type]
        stranger = FarPage(
            name=NAME, state="done", width=1, height=1, output_width=2, output_height=2, size=9
        )
        return News(False, 0, (*pages, stranger))

    def fetch(self, names: Mapping[str, int]) -> Iterator[tuple[str, bytes]]:
        yield "../../outside.png", b"evil"
        yield ".comic-upscale/ledger.sqlite3", b"evil"
        for name in names:
            yield name, self.outputs[name]

    def complaint(self) -> str:
        return "none"

    def close(self) -> None:
        return None


def run_at(workplace: HostileWorkplace, folder: Path, weights: Path) -> JobFinished:
    for number in range(3):
        draw(folder / "pages" / f"{number}.png", number)
    settings = JobSettings(
        input=folder / "pages", output=folder / "out", model=str(weights), scale=2.0, device="cpu", workers=2
    )
    return run_job(settings, elsewhere=Elsewhere(workplace))


@pytest.fixture
def any_weights(tmp_path: Path) -> Path:
    """A file that stands for weights where no network is loaded."""
    path = tmp_path / "any.safetensors"
    path.write_bytes(b"weights")
    return path


def tree(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_an_honest_machine_brings_everything_home_under_our_names(tmp_path: Path, any_weights: Path) -> None:
    finished = run_at(HostileWorkplace(), tmp_path, any_weights)
    assert (finished.done, finished.failed, finished.state) == (3, 0, "finished")
    found = {
        name for name in tree(tmp_path) if ".comic-upscale/" not in name and not name.startswith("pages")
    }
    assert found == {"any.safetensors", "out/0.png", "out/1.png", "out/2.png"}


@pytest.mark.parametrize(
    "lies",
    [
        {"sha256": "c" * 64},
        {"size": 10**11},
        {"size": 0},
        {"width": 7},
        {"output_width": 9},
    ],
)
def test_a_lie_makes_a_failed_page_and_no_file(
    lies: dict[str, object], tmp_path: Path, any_weights: Path
) -> None:
    workplace = HostileWorkplace(**lies)
    finished = run_at(workplace, tmp_path, any_weights)
    assert (finished.done, finished.failed) == (0, 3)
    assert not list((tmp_path / "out").glob("*.png"))
    assert {kind for _, kind, _ in finished.failures} == {"remote"}
    assert sorted(workplace.forgotten) == sorted(workplace.names), "so that --retry-failed does them again"


def test_what_is_not_ours_is_not_overwritten(tmp_path: Path, any_weights: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "1.png").write_bytes(b"the user's own")
    workplace = HostileWorkplace()
    finished = run_at(workplace, tmp_path, any_weights)
    assert (finished.done, finished.failed) == (2, 1)
    assert (tmp_path / "out" / "1.png").read_bytes() == b"the user's own"
    assert len(workplace.names) == 2, "and is not even sent"


def test_a_machine_that_never_finishes_is_given_up(tmp_path: Path, any_weights: Path) -> None:
    from comic_upscale.errors import RemoteError

    class Lazy(HostileWorkplace):
        def news(self) -> News:
            return News(False, None, ())

    with pytest.raises(RemoteError, match="without finishing a page"):
        run_at(Lazy(), tmp_path, any_weights)
