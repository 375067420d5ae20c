from __future__ import annotations

import itertools
import platform
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from comic_upscale.engines.base import DeviceInfo
from comic_upscale.engines.registry import unused_gpu_warning
from comic_upscale.engines.torch import cpu_precision
from comic_upscale.engines.torch import device as device_module
from comic_upscale.engines.torch.device import (
    all_accelerators,
    choose_device,
    choose_precision,
    device_info,
    parse_devices,
    precision_for,
)
from comic_upscale.engines.torch.device_errors import is_lost_device, is_too_much
from comic_upscale.engines.torch.engine import open_torch_engines
from comic_upscale.errors import DeviceError, SettingsError
from comic_upscale.models.network import Network
from comic_upscale.settings.job import JobSettings
from tests.engines.conftest import MakeNetwork
from tests.fakes import NearestEngine

no_cuda = pytest.mark.skipif(torch.cuda.is_available(), reason="asks for a GPU that must not be there")
CPU = torch.device("cpu")


def test_the_cpu_is_always_there() -> None:
    assert choose_device("cpu") == CPU
    assert str(device_info(CPU)).startswith("cpu (")


def test_auto_finds_a_device() -> None:
    assert choose_device("auto").type in ("cuda", "xpu", "mps", "cpu")


@no_cuda
@pytest.mark.parametrize("name", ["cuda", "cuda:0", "cuda:1"])
def test_the_error_for_a_missing_gpu_lists_the_devices_and_what_to_do(name: str) -> None:
    with pytest.raises(DeviceError, match=r"cpu.*--device auto") as caught:
        choose_device(name)
    assert "nvidia-smi" in str(caught.value) or "--index-url" in str(caught.value)


def test_an_impossible_gpu_is_missing_on_every_machine() -> None:
    with pytest.raises(DeviceError, match="there is no device cuda:4000"):
        choose_device("cuda:4000")


@no_cuda
def test_a_gpu_that_torch_does_not_see_is_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(device_module, "_NVIDIA", tmp_path / "nvidiactl")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert device_module.unused_gpu() is None
    (tmp_path / "nvidiactl").touch()
    told = device_module.unused_gpu()
    assert told is not None
    assert "NVIDIA GPU" in told
    assert "driver" in told or "--index-url" in told
    # What the user asked for is no surprise.
    engine = NearestEngine()
    engine.info = replace(engine.info, device=DeviceInfo("cpu", name="2 threads"))
    settings = JobSettings(input=tmp_path, output=tmp_path / "out")
    assert unused_gpu_warning(settings, [engine]) == told
    assert unused_gpu_warning(replace(settings, device="cpu"), [engine]) is None
    assert unused_gpu_warning(settings, []) is None
    engine.info = replace(engine.info, device=DeviceInfo("mps", name="Apple GPU"))
    assert unused_gpu_warning(settings, [engine]) is None


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:-1", "cpu:0x", "", "CUDA"])
def test_another_name_is_refused(name: str) -> None:
    with pytest.raises(SettingsError, match="there is no device"):
        choose_device(name)


def test_devices_are_parsed_in_order_and_named_once() -> None:
    assert parse_devices(" cpu ") == [CPU]
    with pytest.raises(SettingsError, match="twice"):
        parse_devices("cpu,cpu")
    with pytest.raises(SettingsError, match="--device is empty"):
        parse_devices(" , ")


@pytest.mark.parametrize(
    ("names", "expected"),
    [("auto", True), ("cuda:0,cuda:1", True), ("mps", True), ("cpu", False), ("cuda:0,cpu", False)],
)
def test_accelerators_are_what_is_more_than_a_cpu(
    names: str, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert all_accelerators("cpu") is False
    monkeypatch.setattr(
        device_module, "choose_device", lambda name: torch.device("cuda" if name == "auto" else name)
    )
    assert all_accelerators(names) is expected


@pytest.mark.parametrize(
    ("kind", "capability", "half", "bfloat16", "expected"),
    [
        ("cuda", (9, 0), True, True, torch.float16),
        ("cuda", (7, 0), True, True, torch.float16),
        ("cuda", (6, 1), True, True, torch.float32),
        ("cuda", (9, 0), False, True, torch.bfloat16),
        ("cuda", (7, 5), False, True, torch.float32),
        ("cuda", (9, 0), False, False, torch.float32),
        ("xpu", None, True, True, torch.float16),
        ("xpu", None, False, True, torch.bfloat16),
        ("mps", None, True, True, torch.float32),
        ("cpu", None, True, True, torch.float32),
    ],
)
def test_auto_precision(
    kind: str, capability: tuple[int, int] | None, half: bool, bfloat16: bool, expected: torch.dtype
) -> None:
    chosen = precision_for("auto", kind, capability, supports_half=half, supports_bfloat16=bfloat16)
    assert chosen == expected


@pytest.mark.parametrize(("has_it", "expected"), [(True, torch.bfloat16), (False, torch.float32)])
def test_a_compact_network_runs_in_bfloat16_on_a_cpu_that_has_it(
    compact: Network,
    make_network: MakeNetwork,
    monkeypatch: pytest.MonkeyPatch,
    has_it: bool,
    expected: torch.dtype,
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": has_it}, raising=False)
    assert choose_precision("auto", CPU, compact) == expected
    assert choose_precision("auto", CPU, make_network(torch.nn.Upsample(scale_factor=4))) == torch.float32


@pytest.mark.parametrize(
    ("ratio", "expected"), [(2.0, torch.bfloat16), (1.1, torch.float32), (0.7, torch.float32)]
)
def test_a_small_page_decides_where_bfloat16_may_be_slower(
    compact: Network, monkeypatch: pytest.MonkeyPatch, ratio: float, expected: torch.dtype
) -> None:
    monkeypatch.setattr(cpu_precision, "measure", lambda *_: {torch.float32: ratio, torch.bfloat16: 1.0})
    # ARM has another name for it.
    for name in ("avx512_bf16", "bf16"):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda name=name: {name: True}, raising=False)
        assert choose_precision("auto", CPU, compact) == expected


def test_all_engines_of_a_process_compute_in_one_precision(
    compact: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = itertools.cycle([0.5, 2.0])
    monkeypatch.setattr(
        cpu_precision, "measure", lambda *_: {torch.float32: 1.0, torch.bfloat16: next(answers)}
    )
    monkeypatch.setattr(cpu_precision, "_found", {})
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True}, raising=False)
    network = replace(compact, identity="some network")
    opened = [engine for _ in range(3) for engine in open_torch_engines(network, CPU)]
    assert {engine.info.precision for engine in opened} == {"bf16"}
    # With other weights in 8 bits, it is another one.
    other = replace(network, int8_path=Path("other.safetensors"))
    assert choose_precision("auto", CPU, other) == torch.float32


def test_the_small_page_runs_in_each_precision_on_one_thread(
    compact: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = torch.get_num_threads()
    counts = []
    monkeypatch.setattr(
        cpu_precision,
        "in_strips",
        lambda *_: lambda page: counts.append((torch.get_num_threads(), page.shape)),
    )
    found = cpu_precision.measure(compact, [torch.bfloat16])
    assert list(found) == [torch.float32, torch.bfloat16]
    assert {count for count, _ in counts} == {1}
    assert {shape[1] for _, shape in counts} == {compact.input_channels}
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_the_small_page_takes_time_in_each_precision(compact: Network, precision: torch.dtype) -> None:
    assert cpu_precision.measure(compact, [precision])[precision] > 0


def test_what_is_hopelessly_slow_is_tried_once(compact: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    pages: list[torch.dtype] = []

    def in_strips(_network: Network, precision: torch.dtype) -> Callable[[torch.Tensor], None]:
        return lambda _page: pages.append(precision)

    def clock() -> int:
        """Ten seconds for a page in bfloat16, and one in float32."""
        return sum(10 if each == torch.bfloat16 else 1 for each in pages)

    monkeypatch.setattr(cpu_precision, "in_strips", in_strips)
    monkeypatch.setattr(cpu_precision, "time", SimpleNamespace(perf_counter=clock))
    found = cpu_precision.measure(compact, [torch.bfloat16])
    # Once to prepare, and once in the first round.
    assert pages.count(torch.bfloat16) == 2
    assert pages.count(torch.float32) > 2
    assert cpu_precision.choose(found) == torch.float32


def test_a_torch_that_does_not_tell_what_the_cpu_can_computes_in_float32(
    compact: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert choose_precision("auto", CPU, compact) == torch.float32


def test_a_precision_is_what_was_asked_for_or_refused(compact: Network) -> None:
    assert choose_precision("fp32", CPU, compact) == torch.float32
    assert choose_precision("bf16", CPU, compact) == torch.bfloat16
    with pytest.raises(SettingsError, match=r"does not work in fp16.*fp32, bf16"):
        precision_for("fp16", "cuda", (9, 0), supports_half=False, supports_bfloat16=True)
    with pytest.raises(SettingsError, match="there is no precision"):
        choose_precision("fp8", CPU, compact)


@pytest.mark.parametrize(
    ("error", "too_much", "lost"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), True, False),
        (MemoryError(), True, False),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), True, False),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried"), True, False),
        (RuntimeError("CUDA error: out of memory"), True, False),
        # A kernel is loaded at its first use, when the memory may be full.
        (RuntimeError("Triton Error [CUDA]: out of memory"), True, False),
        (RuntimeError("Triton Error [CUDA]: an illegal memory access was encountered"), False, True),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False, True),
        (RuntimeError("CUDA error: device-side assert triggered"), False, True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), False, True),
        (
            RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"),
            True,
            False,
        ),
        (RuntimeError("cuDNN error: CUDNN_STATUS_NOT_INITIALIZED"), True, False),
        (RuntimeError("GET was unable to find an engine to execute this computation"), True, False),
        (RuntimeError("Expected a CUDA tensor"), False, False),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False, False),
        (ValueError("CUDA error"), False, False),
    ],
)
def test_what_an_exception_means(error: Exception, too_much: bool, lost: bool) -> None:
    assert is_too_much(error) is too_much
    assert is_lost_device(error) is lost


_LEFT_OVER = """
import numpy as np
from pathlib import Path
from comic_upscale.engines.torch.device import little_memory_kept

def resident():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) // 1024 for line in lines if line.startswith("VmRSS"))

def left_over():
    before = resident()
    buffers = [np.ones(8 << 20, np.uint8) for _ in range(30)]
    # Lies behind the others, so that not even the end of them can be given back.
    pins.append(np.ones(100_000, np.uint8))
    buffers.clear()
    return resident() - before

pins = []
# Once a buffer of this size was freed, glibc takes smaller ones from what it keeps.
np.ones(31 << 20, np.uint8)
with little_memory_kept():
    print(left_over())
print(left_over())
before = resident()
with little_memory_kept():
    pass
print(before - resident())
"""


@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc" or sys.platform != "linux", reason="is about glibc's allocator"
)
def test_freed_buffers_go_back_to_the_system_where_little_memory_is_kept() -> None:
    # A process of its own: other tests leave gaps in which these buffers would find their place.
    ran = subprocess.run([sys.executable, "-c", _LEFT_OVER], capture_output=True, text=True, check=True)
    within, outside, given_back = map(int, ran.stdout.split())
    assert within < 40
    # How much glibc keeps without our help is its own affair; whatever it was is given back afterwards.
    assert given_back > outside - 40
