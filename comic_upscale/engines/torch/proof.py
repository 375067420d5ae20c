"""Whether the fused kernels are used: only where they prove themselves on this very GPU.

Triton compiles the kernels when they first run, and needs a C compiler for that. Either may be missing, and a GPU may
be one on which nobody has tried the kernels. So each engine runs one test window both ways when it opens. The fused way
is used if it runs, if its pixels are those of the plain way, and if it takes less time. Otherwise the plain way is
used, which always works, and the user sees no warning.
"""

from __future__ import annotations

import copy
import importlib.util
import logging
import math
import shutil
import statistics
import sys
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from comic_upscale.engines.torch.device import current_on, precision_name, release_memory
from comic_upscale.models.network import Network

log = logging.getLogger(__name__)

Run = Callable[[torch.Tensor], torch.Tensor]
"""Runs a network: N x C x height x width, 0..1, to N x C x height*scale x width*scale."""
Timer = Callable[[Callable[[], object]], float]
"""Does some work once and returns how long it took, in milliseconds."""

_ROUNDS = 5
"""Each way is timed this many times, in turn, because a GPU raises its clocks only when it has work."""
_TIMING_MS = 400.0
"""No further round begins after this much time. One round is enough for a network that takes longer."""
_LARGEST_TENSOR = 2**27
"""Elements of the largest tensor for the test window: enough work for a GPU, and 256 MiB in half precision."""
_WINDOW = (767, 511)
"""Largest test window, height x width: a page. The sides are odd, so that no size is a multiple of a kernel's block."""
_EVEN = (96, 64)
"""The second test window, of which there are two in a batch."""
_SMALLEST = 63
_FIRST_CAPABILITY = {torch.float32: (7, 0), torch.float16: (7, 0), torch.bfloat16: (8, 0)}
"""CUDA capability that Triton compiles for. Below it, its compiler may end the process."""


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How far the fused way may be from the plain way in the same precision."""

    levels: float
    """The largest difference of a sample, in levels of 8 bits."""
    decibels: float
    """The smallest PSNR."""


TOLERANCES = {
    torch.float32: Tolerance(1, 60),
    torch.float16: Tolerance(2, 60),
    torch.bfloat16: Tolerance(8, 50),
}
"""By precision. bfloat16 has 8 bits for a number, so its roundings alone are several levels."""
_NEARLY = 0.5
"""The fused way may also be this many decibels further from float32 than the plain way is. In a deep network, two
roundings of the same numbers differ by more than the tolerance, and both are as good."""


@dataclass(frozen=True, slots=True)
class Proof:
    """The result of the comparison."""

    is_fused: bool
    """Whether the fused way is used."""
    reason: str
    """Why, in words for a log."""


def choose_way(
    network: Network, plain: torch.nn.Module, device: torch.device, precision: torch.dtype
) -> tuple[torch.nn.Module, Proof]:
    """Return the module to run, and why: the fused one if it proves itself, otherwise ``plain``.

    Args:
        network: the loaded network.
        plain: its module on the device, in the precision, channels-last.
        device: the device.
        precision: float32, float16 or bfloat16.
    """
    reason = missing_parts(device, precision)
    if reason is not None:
        module, proof = plain, Proof(False, reason)
    else:
        module, proof = try_way(network, plain, device, precision, build=build_fused, timer=time_on_cuda)
        # What the test windows took. The first batches measure how much memory a page needs.
        release_memory(device)
    log.debug(
        "%s in %s on %s: %s kernels: %s",
        network.architecture,
        precision_name(precision),
        device,
        "fused" if proof.is_fused else "plain",
        proof.reason,
    )
    return module, proof


def try_way(
    network: Network,
    plain: torch.nn.Module,
    device: torch.device,
    precision: torch.dtype,
    *,
    build: Callable[[torch.nn.Module], torch.nn.Module],
    timer: Timer,
) -> tuple[torch.nn.Module, Proof]:
    """Build another way to run a network, and return what `choose_way` returns. No error leaves this function.

    Args:
        network: as in `choose_way`.
        plain: as in `choose_way`.
        device: as in `choose_way`.
        precision: as in `choose_way`.
        build: returns the other way for the plain module.
        timer: measures one run.
    """
    try:
        fused = build(plain)
        proof = _prove_on_device(network, plain, fused, device, precision, timer)
    except Exception as error:
        # Compilers, drivers and memory fail in many ways, and the plain way needs none of what failed.
        return plain, Proof(
            False, f"{type(error).__name__}: {(str(error).splitlines() or ['no message'])[0]}"
        )
    return (fused if proof.is_fused else plain), proof


def build_fused(plain: torch.nn.Module) -> torch.nn.Module:
    """Return the module with fused kernels; arguments and errors as in `fused.fuse`."""
    # Imported here, so that Triton is imported only where it is used.
    from comic_upscale.engines.torch.fused import fuse

    return fuse(plain)


def missing_parts(device: torch.device, precision: torch.dtype) -> str | None:
    """Return why the kernels cannot be compiled on this machine, as far as that is known without trying; or None.

    Asking first is quieter: a C compiler that does not find Python's header writes to the terminal.
    """
    if device.type != "cuda":
        return f"there are no fused kernels for {device.type}"
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed"
    if sys.platform == "linux":
        if not any(shutil.which(name) for name in ("gcc", "clang")):
            return "there is no C compiler"
        if not _has_python_header():
            return "Python's header files are not installed"
    capability = torch.cuda.get_device_capability(device)
    if torch.version.hip is None and capability < _FIRST_CAPABILITY[precision]:
        return f"Triton does not support GPUs of capability {capability[0]}.{capability[1]}"
    return None


def prove(
    plain: Run,
    fused: Run,
    window: torch.Tensor,
    tolerance: Tolerance,
    timer: Timer,
    exact: Callable[[], torch.Tensor] | None = None,
) -> Proof:
    """Compare two ways to run a network on a window.

    Args:
        plain: the way that is right.
        fused: the way that must prove itself.
        window: N x C x height x width, 0..1, channels-last, in the precision.
        tolerance: how far the results may be from each other.
        timer: measures one run.
        exact: returns the result in float32; None to accept only results within the tolerance.

    Raises:
        Exception: whatever the fused way raises.
    """
    is_right, measured = compare_ways(plain, fused, window, tolerance, exact)
    if not is_right:
        return Proof(False, measured)
    plain_ms, fused_ms = time_both(lambda: plain(window), lambda: fused(window), timer)
    measured += f" and takes {fused_ms:.2f} ms instead of {plain_ms:.2f} ms"
    return Proof(fused_ms < plain_ms, measured)


def compare_ways(
    plain: Run,
    fused: Run,
    window: torch.Tensor,
    tolerance: Tolerance,
    exact: Callable[[], torch.Tensor] | None = None,
) -> tuple[bool, str]:
    """Return whether the fused way gives the right pixels, and how far they are from those of the plain way.

    Args:
        plain: as in `prove`.
        fused: as in `prove`.
        window: as in `prove`.
        tolerance: as in `prove`.
        exact: as in `prove`.
    """
    # These runs also compile the kernels and let cuDNN choose its own.
    expected = _levels(plain(window))
    given = _levels(fused(window))
    if given.shape != expected.shape:
        return False, f"it returns {tuple(given.shape)}, not {tuple(expected.shape)}"
    if not bool(torch.isfinite(expected).all()):
        return False, "the network's numbers are not finite for the test window"
    largest, decibels = _compare(given, expected)
    measured = f"it differs by {largest:.2f} levels and {decibels:.1f} dB"
    if largest <= tolerance.levels and decibels >= tolerance.decibels:
        return True, measured
    if exact is None or not _is_as_good(given, expected, _levels(exact())):
        return False, measured
    return True, f"{measured}, no further from fp32 than the plain way"


def draw_window(height: int, width: int, channels: int) -> torch.Tensor:
    """Return a window that resembles a page, float32, 1 x C x height x width, 0..1.

    It has white and black areas, lines, a screentone, a color gradient, flat colors and a little noise.
    """
    down = torch.arange(height, dtype=torch.float32)[:, None]
    right = torch.arange(width, dtype=torch.float32)[None, :]
    page = torch.ones(3, height, width)
    panel = (down // 96 + right // 80) % 4
    gradient = torch.stack(
        (
            (down + right) / (height + width),
            1 - down / height + 0 * right,
            0.3 + 0.5 * right / width + 0 * down,
        )
    )
    dots = ((down % 6 - 3) ** 2 + (right % 6 - 3) ** 2 > 4).float()
    lines = ((down * 0.7 + right) % 23 > 2).float() * ((down - 0.4 * right) % 31 > 2).float()
    page = torch.where(panel == 1, gradient, page)
    page = torch.where(panel == 2, 0.25 + 0.65 * dots, page)
    page = torch.where(panel == 3, torch.tensor([0.9, 0.7, 0.5])[:, None, None], page) * lines
    page = torch.where((down % 96 < 3) | (right % 80 < 3), torch.tensor(0.0), page)
    noise = torch.rand(page.shape, generator=torch.Generator().manual_seed(1))
    page = (page + 0.03 * (noise - 0.5)).clamp(0, 1)
    # Samples of 8 bits, as those of pages.
    return ((page * 255).round() / 255)[None, :channels]


def time_on_cuda(work: Callable[[], object]) -> float:
    """Return the milliseconds that work takes on the current CUDA device."""
    before = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    after = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    before.record()
    work()
    after.record()
    after.synchronize()
    return float(before.elapsed_time(after))


def _prove_on_device(
    network: Network,
    plain: torch.nn.Module,
    fused: torch.nn.Module,
    device: torch.device,
    precision: torch.dtype,
    timer: Timer,
) -> Proof:
    height, width = _window_size(network)
    channels = network.input_channels
    odd = draw_window(height, width, channels)
    # Triton compiles once more for sides that are multiples of 16, as those of most pages are.
    even = draw_window(*_EVEN, channels)
    even = torch.cat((even, even.flip(2)))

    def in_fp32(page: torch.Tensor) -> torch.Tensor:
        module = copy.deepcopy(network.module).to(device).to(memory_format=torch.channels_last).eval()
        made: torch.Tensor = module(page.to(device).contiguous(memory_format=torch.channels_last))
        return made

    with current_on(device), torch.inference_mode():
        windows = [
            (
                page.to(device, precision).contiguous(memory_format=torch.channels_last),
                None if precision == torch.float32 else partial(in_fp32, page),
            )
            for page in (even, odd)
        ]
        is_right, measured = compare_ways(plain, fused, windows[0][0], TOLERANCES[precision], windows[0][1])
        if not is_right:
            return Proof(False, measured)
        return prove(plain, fused, windows[1][0], TOLERANCES[precision], timer, windows[1][1])


def _window_size(network: Network) -> tuple[int, int]:
    """Return height and width of the test window, smaller for a network with larger tensors."""
    pixels = _LARGEST_TENSOR / max(network.widest, 1)
    share = min(1.0, math.sqrt(pixels / (_WINDOW[0] * _WINDOW[1])))
    height, width = (max(_SMALLEST, int(side * share) | 1) for side in _WINDOW)
    return height, width


def _levels(native: torch.Tensor) -> torch.Tensor:
    return native.float().clamp(0, 1).mul_(255)


def _compare(given: torch.Tensor, expected: torch.Tensor) -> tuple[float, float]:
    """Return the largest difference in levels and the PSNR in decibels."""
    difference = (given - expected).abs()
    square = float(difference.square().mean())
    return float(difference.max()), (10 * math.log10(255**2 / square) if square > 0 else math.inf)


def _is_as_good(given: torch.Tensor, expected: torch.Tensor, exact: torch.Tensor) -> bool:
    """Return whether the result is about as close to that of float32 as the expected result is."""
    largest, decibels = _compare(given, exact)
    usual_largest, usual_decibels = _compare(expected, exact)
    return decibels >= usual_decibels - _NEARLY and largest <= 1.5 * usual_largest


def time_both(plain: Callable[[], object], fused: Callable[[], object], timer: Timer) -> tuple[float, float]:
    """Return the median milliseconds of each."""
    plain_ms: list[float] = []
    fused_ms: list[float] = []
    while len(plain_ms) < _ROUNDS and sum(plain_ms) + sum(fused_ms) < _TIMING_MS:
        plain_ms.append(timer(plain))
        fused_ms.append(timer(fused))
    return statistics.median(plain_ms), statistics.median(fused_ms)


def _has_python_header() -> bool:
    scheme = sysconfig.get_default_scheme()
    # Debian's own scheme has a path under /usr/local, where the header never is.
    paths = sysconfig.get_paths("posix_prefix" if scheme == "posix_local" else scheme)
    return (Path(paths["include"]) / "Python.h").is_file()
