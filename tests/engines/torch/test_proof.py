"""The fused way is used only where it runs, is right and is faster; else the plain way, without a word to the user."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from comic_upscale.engines.torch import proof
from comic_upscale.engines.torch.network_pass import NetworkPass
from comic_upscale.engines.torch.proof import (
    TOLERANCES,
    Tolerance,
    choose_way,
    draw_window,
    missing_parts,
    prove,
    try_way,
)
from comic_upscale.models.network import Network, load_network
from comic_upscale.models.weights import resolve_weights
from tests.conftest import REPOSITORY

CPU = torch.device("cpu")
EXACT = TOLERANCES[torch.float32]
HALF = TOLERANCES[torch.float16]


def plain(x: torch.Tensor) -> torch.Tensor:
    return x.repeat_interleave(2, 2).repeat_interleave(2, 3)


def _timer(*milliseconds: float) -> Callable[[Callable[[], object]], float]:
    """Return a timer that does the work and returns these numbers in turn, again and again."""

    def tell() -> Iterator[float]:
        while True:
            yield from milliseconds

    told = tell()

    def timer(work: Callable[[], object]) -> float:
        work()
        return next(told)

    return timer


@pytest.fixture
def small_window(monkeypatch: pytest.MonkeyPatch) -> None:
    """The window of a GPU takes a CPU seconds."""
    monkeypatch.setattr(proof, "_WINDOW", (65, 47))
    monkeypatch.setattr(proof, "_SMALLEST", 5)


FASTER, SLOWER = (2.0, 1.0), (1.0, 2.0)
"""The plain way is timed first in each round."""


def test_a_way_that_is_right_and_faster_is_used() -> None:
    found = prove(plain, lambda x: plain(x) + 0.2 / 255, draw_window(65, 47, 3), EXACT, _timer(*FASTER))
    assert found.is_fused, found.reason
    assert "1.00 ms instead of 2.00 ms" in found.reason


def test_a_way_that_is_slower_or_as_slow_is_refused() -> None:
    window = draw_window(65, 47, 3)
    assert not prove(plain, plain, window, EXACT, _timer(*SLOWER)).is_fused
    assert not prove(plain, plain, window, EXACT, _timer(1.0, 1.0)).is_fused


def test_one_slow_round_decides_nothing() -> None:
    times = (2, 1, 2, 90, 2, 1, 2, 1, 2, 1)
    assert prove(plain, plain, draw_window(65, 47, 3), EXACT, _timer(*times)).is_fused


def test_a_network_that_takes_long_is_timed_once() -> None:
    calls: list[torch.Tensor] = []

    def slow(x: torch.Tensor) -> torch.Tensor:
        calls.append(x)
        return plain(x)

    assert prove(slow, plain, draw_window(65, 47, 3), EXACT, _timer(5000.0, 4000.0)).is_fused
    assert len(calls) == 2  # once for the pixels, once for the time


def _one_sample(x: torch.Tensor) -> torch.Tensor:
    made = plain(x)
    made[0, 0, -1, -1] += 0.02 if made[0, 0, -1, -1] < 0.5 else -0.02
    return made


def _last_row_missing(x: torch.Tensor) -> torch.Tensor:
    made = plain(x)
    made[:, :, -1] = 0.5
    return made


@pytest.mark.parametrize(
    "wrong",
    [
        _one_sample,
        _last_row_missing,
        lambda x: plain(x).roll(1, 3),
        lambda x: plain(x).flip(1),
        lambda x: plain(x) * 0.97,
        lambda x: plain(x).fill_(float("nan")),
        lambda x: plain(x)[:, :, :-1],
        lambda x: x,
    ],
    ids=["one sample", "last row", "moved", "colors", "darker", "nan", "smaller", "not enlarged"],
)
@pytest.mark.parametrize("precision", [torch.float32, torch.float16, torch.bfloat16])
def test_a_way_that_is_wrong_is_refused(
    wrong: Callable[[torch.Tensor], torch.Tensor], precision: torch.dtype
) -> None:
    window = draw_window(65, 47, 3).to(precision)
    tolerance = Tolerance(2, 60)  # that of float16, also where bfloat16 allows more
    assert not prove(plain, wrong, window, tolerance, _timer(*FASTER)).is_fused
    exact = plain(window).float()
    assert not prove(plain, wrong, window, tolerance, _timer(*FASTER), lambda: exact).is_fused


def test_a_network_whose_numbers_overflow_proves_nothing() -> None:
    def overflowing(x: torch.Tensor) -> torch.Tensor:
        return plain(x) * torch.tensor(float("nan"))

    assert not prove(overflowing, overflowing, draw_window(65, 47, 3), HALF, _timer(*FASTER)).is_fused


def test_two_roundings_that_are_equally_far_from_float32_are_equally_good() -> None:
    window = draw_window(65, 47, 3) * 0.8 + 0.1
    exact = plain(window)
    noise = torch.randn(exact.shape, generator=torch.Generator().manual_seed(2)) / 255
    other = torch.randn(exact.shape, generator=torch.Generator().manual_seed(3)) / 255

    def rounded(x: torch.Tensor) -> torch.Tensor:
        return exact + noise

    def also_rounded(x: torch.Tensor) -> torch.Tensor:
        return exact + other

    def rounded_worse(x: torch.Tensor) -> torch.Tensor:
        return exact + 1.3 * other

    timer = _timer(*FASTER)
    assert not prove(rounded, also_rounded, window, HALF, timer).is_fused
    assert prove(rounded, also_rounded, window, HALF, timer, lambda: exact).is_fused
    assert not prove(rounded, rounded_worse, window, HALF, timer, lambda: exact).is_fused


@pytest.mark.usefixtures("small_window")
@pytest.mark.parametrize(
    "error",
    [ImportError("no module named triton"), RuntimeError("Failed to find C compiler\nsee"), OSError()],
)
def test_a_way_that_fails_is_refused_without_a_word(
    compact: Network, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_module: torch.nn.Module) -> torch.nn.Module:
        raise error

    class Failing(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise error

    for build in (fail, lambda _module: Failing()):
        module, found = try_way(
            compact, compact.module, CPU, torch.float32, build=build, timer=_timer(*FASTER)
        )
        assert module is compact.module
        assert not found.is_fused
        assert type(error).__name__ in found.reason and "\n" not in found.reason
    assert not caplog.records


@pytest.mark.usefixtures("small_window")
def test_the_module_that_proved_itself_is_the_one_that_runs(compact: Network) -> None:
    class Other(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            made: torch.Tensor = compact.module(x)
            return made

    other = Other()
    for times, expected in ((FASTER, other), (SLOWER, compact.module)):
        module, found = try_way(
            compact, compact.module, CPU, torch.float32, build=lambda _module: other, timer=_timer(*times)
        )
        assert module is expected
        assert found.is_fused == (expected is other), found.reason


@pytest.mark.usefixtures("small_window")
@pytest.mark.parametrize("what", ["batch", "even sides", "odd sides"])
def test_each_kind_of_page_is_tried(compact: Network, what: str) -> None:
    class WrongForSome(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            wrong = {
                "batch": len(x) > 1,
                "even sides": x.shape[2] % 16 == 0 and x.shape[3] % 16 == 0,
                "odd sides": x.shape[2] % 2 == 1,
            }
            made: torch.Tensor = compact.module(x)
            return made + 0.1 * wrong[what]

    _, found = try_way(
        compact,
        compact.module,
        CPU,
        torch.float32,
        build=lambda _module: WrongForSome(),
        timer=_timer(*FASTER),
    )
    assert not found.is_fused
    assert "differs" in found.reason


def test_the_reason_is_logged_for_those_who_look_for_it(
    compact: Network, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("DEBUG", logger=proof.__name__):
        module, found = choose_way(compact, compact.module, CPU, torch.float32)
    assert module is compact.module and not found.is_fused
    assert [record.levelname for record in caplog.records] == ["DEBUG"]
    assert found.reason in caplog.text


def test_a_cpu_has_no_proof_and_imports_no_triton() -> None:
    code = (
        "import sys, torch\n"
        "from pathlib import Path\n"
        "from comic_upscale.engines.torch.network_pass import NetworkPass\n"
        "from comic_upscale.models.network import load_network\n"
        "from comic_upscale.models.weights import resolve_weights\n"
        "weights = resolve_weights('comic-compact-x3', denoise=None, folders=[], cache=Path(), download=False)\n"
        "before = 'triton' in sys.modules\n"
        "made = NetworkPass(load_network(weights, None), torch.device('cpu'), torch.float32)\n"
        "print(made.proof, 'triton' in sys.modules and not before)\n"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert found.stdout.split() == ["None", "False"], found.stderr


@pytest.mark.parametrize(
    ("name", "replacement", "expected"),
    [
        ("importlib.util.find_spec", lambda _name: None, "Triton is not installed"),
        ("shutil.which", lambda _name: None, "there is no C compiler"),
        ("sysconfig.get_paths", lambda _scheme: {"include": "/nowhere"}, "header files"),
    ],
)
@pytest.mark.skipif(sys.platform != "linux", reason="the parts are looked for on Linux")
def test_what_is_missing_is_found_before_a_compiler_complains(
    name: str, replacement: object, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Those that are looked for before.
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: object())
    if "which" not in name:
        monkeypatch.setattr("shutil.which", lambda _name: "/usr/bin/cc")
    monkeypatch.setattr(name, replacement)
    assert expected in str(missing_parts(torch.device("cuda", 0), torch.float16))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(767, 511), (63, 63), (1, 1)])
def test_the_window_resembles_a_page(size: tuple[int, int], channels: int) -> None:
    window = draw_window(*size, channels)
    assert window.shape == (1, channels, *size)
    assert float(window.min()) >= 0 and float(window.max()) <= 1
    torch.testing.assert_close(window * 255, (window * 255).round())
    if size[0] > 1:
        assert float((window > 0.97).float().mean()) > 0.1
        assert float((window < 0.03).float().mean()) > 0.1


def test_the_window_of_a_network_with_large_tensors_is_smaller(compact: Network) -> None:
    assert proof._window_size(compact) == (767, 511)
    for widest in (1024, 4096, 10**9):
        height, width = proof._window_size(replace(compact, widest=widest))
        assert height % 2 == width % 2 == 1
        assert 63 <= width < height + 1 < 767
        assert height * width * widest <= 1.02 * 2**27 or (height, width) == (63, 63)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("precision", [torch.float32, torch.float16])
def test_a_gpu_gives_the_pixels_of_the_plain_layers_either_way(precision: torch.dtype) -> None:
    weights = resolve_weights("comic-compact-x3", denoise=None, folders=[], cache=Path(), download=False)
    network = load_network(weights, None)
    chosen = NetworkPass(network, torch.device("cuda", 0), precision)
    assert chosen.proof is not None and chosen.proof.reason
    pages = draw_window(151, 97, 3)
    with torch.inference_mode():
        expected = network.module(pages)
        found = chosen.compute(pages.to("cuda")).float().cpu()
    difference = (255 * (found.clamp(0, 1) - expected.clamp(0, 1))).abs()
    assert float(difference.max()) <= (1 if precision == torch.float32 else 3), chosen.proof.reason
