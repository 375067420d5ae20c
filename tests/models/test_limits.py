"""Files of weights that describe more than they hold: refused in words, in bounded time and memory."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from spandrel.architectures.Compact import Compact
from spandrel.architectures.ESRGAN import ESRGAN

from comic_upscale.errors import WeightsError
from comic_upscale.models.limits import BoundedTensors, TooLargeError
from comic_upscale.models.network import load_network, read_state
from comic_upscale.models.weights import ResolvedWeights

State = dict[str, torch.Tensor]

_CHILD = """
import json, resource, sys
from pathlib import Path
import torch, comic_upscale.models.network as network
from comic_upscale.errors import WeightsError
from comic_upscale.models.weights import ResolvedWeights
torch.set_num_threads(1)
# Memory beyond that of the libraries, and processor time for all files together: a hundred times what is needed.
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 3 * 2**30, used + 3 * 2**30))
resource.setrlimit(resource.RLIMIT_CPU, (300, 300))
refusals = {}
for path in sorted(Path(sys.argv[1]).iterdir()):
    try:
        network.load_network(ResolvedWeights("hostile", path, "0" * 64), None)
        refusals[path.name] = "loaded"
    except WeightsError as error:
        refusals[path.name] = str(error)
    print(json.dumps(refusals), flush=True)
"""

Make = Callable[[Path], None]
HOSTILE: dict[str, tuple[Make, str]] = {}
"""By the name of the file: what makes it, and a part of the message with which it is refused."""


def hostile(name: str, message: str) -> Callable[[Make], Make]:
    """Note a function that makes a file."""

    def note(make: Make) -> Make:
        HOSTILE[name] = (make, message)
        return make

    return note


@pytest.fixture(scope="module")
def refusals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Load every hostile file in one process with little memory and time; return the messages."""
    if not Path("/proc/self/statm").exists():
        pytest.skip("only Linux bounds the memory of a process")
    folder = tmp_path_factory.mktemp("hostile")
    for name, (make, _) in HOSTILE.items():
        make(folder / name)
    done = subprocess.run(
        [sys.executable, "-c", _CHILD, str(folder)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, (done.stdout.splitlines()[-1:], done.stderr[-2000:])
    messages: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    assert all(str(folder / name) in message for name, message in messages.items()), messages
    return messages


def _compact(features: int = 8) -> State:
    return Compact(num_feat=features, num_conv=1, upscale=2).state_dict()


def _with_layer(number: str) -> State:
    state = _compact()
    state[f"body.{number}.weight"] = state["body.4.weight"].clone()
    state[f"body.{number}.bias"] = state["body.4.bias"].clone()
    return state


def _header(path: Path, header: dict[str, object], data: bytes = b"") -> Path:
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def _hostile_layers(number: str, suffix: str) -> None:
    @hostile(f"layer-{number}{suffix}", f"it names a layer {int(number):,}")
    def _(path: Path) -> None:
        (save_file if suffix == ".safetensors" else torch.save)(_with_layer(number), path)


for _number in ("4000000", "4_000_000", "1" + "0" * 30):
    for _suffix in (".safetensors", ".pth"):
        _hostile_layers(_number, _suffix)


@hostile("gap.safetensors", "resemble a known architecture but do not fit it")
def _as_many_layers_as_a_name_may_have(path: Path) -> None:
    save_file(_with_layer("4096"), path)


@hostile("broad.safetensors", "far larger layers than it holds")
def _a_vector_that_stands_for_the_sides_of_a_matrix(path: Path) -> None:
    """A layer of 120,000 by 120,000 has 520 GB as float32; here it is told by half a million numbers."""
    side = 120_000
    state = {
        "body.0.weight": torch.zeros(side, 3, 1, 1),
        "body.0.bias": torch.zeros(side),
        "body.1.weight": torch.zeros(side),
        "body.4.bias": torch.zeros(12),
    }
    save_file(state, path)


@hostile("empty.safetensors", "is not a plain array of numbers")
def _a_shape_without_elements(path: Path) -> None:
    _header(
        path,
        {
            "body.0.weight": {"dtype": "F32", "shape": [4_000_000_000, 0, 3, 3], "data_offsets": [0, 0]},
            "body.1.weight": {"dtype": "F32", "shape": [4_000_000_000, 0], "data_offsets": [0, 0]},
        },
    )


@hostile("expanded.pth", "its tensors claim 1,080,000,0")
def _one_number_that_is_a_huge_tensor(path: Path) -> None:
    state = _compact()
    state["body.0.weight"] = torch.zeros(1).expand(1_000_000, 3, 300, 300)
    torch.save(state, path)
    assert path.stat().st_size < 20_000


ODD: dict[str, Callable[[], torch.Tensor]] = {
    "sparse": lambda: torch.sparse_coo_tensor(
        torch.zeros(4, 0, dtype=torch.long), torch.zeros(0), (10**6, 3, 300, 300), check_invariants=True
    ),
    "without content": lambda: torch.empty(10**6, 3, 300, 300, device="meta"),
    "complex": lambda: torch.zeros(8, 3, 3, 3, dtype=torch.complex64),
    "quantized": lambda: torch.quantize_per_tensor(torch.zeros(8, 3, 3, 3), 0.1, 0, torch.quint8),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ODD)
def test_tensors_that_are_no_arrays(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "odd.pth"
    torch.save({**_compact(), "body.0.weight": ODD[kind]()}, path)
    with pytest.raises(WeightsError, match=r"body\.0\.weight is not a plain array of numbers|damaged"):
        load_network(ResolvedWeights("odd", path, "0" * 64), None)


@hostile("bomb.pth", "it unpacks to 160,")
def _a_compressed_file_that_unpacks_to_far_more(path: Path) -> None:
    plain = path.with_name("plain")
    torch.save({**_compact(), "more": torch.zeros(40_000_000)}, plain)
    with zipfile.ZipFile(plain) as source, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target:
        for record in source.infolist():
            target.writestr(record.filename, source.read(record))
    plain.unlink()
    assert path.stat().st_size < 1_000_000


@hostile("list.safetensors", "its list of tensors has 104,857,600 bytes")
def _a_list_of_tensors_of_a_hundred_megabytes(path: Path) -> None:
    with path.open("wb") as file:
        file.write((100 * 2**20).to_bytes(8, "little"))
        file.write(b'{"a": ')
        file.truncate(100 * 2**20 + 8)


@hostile("many.safetensors", "it lists 30,000 tensors")
def _more_tensors_than_any_network_has(path: Path) -> None:
    save_file({f"a.{number % 4000}.{number // 4000}": torch.zeros(1) for number in range(30_000)}, path)


@hostile("far.safetensors", "of 1048576x, too large to run")
def _an_enlargement_that_no_memory_holds(path: Path) -> None:
    """Twenty convolutions of one feature each, each of which doubles the page."""
    save_file(ESRGAN(num_blocks=1, num_filters=1, scale=2**20).state_dict(), path)


@pytest.mark.parametrize(
    "offsets",
    [[-4, 0], [0, 2**63], [4, 0], [0, 3], [2**64, 2**64 + 4], [1, 5]],
)
def test_offsets_that_lie(tmp_path: Path, offsets: list[int]) -> None:
    path = _header(
        tmp_path / "offsets.safetensors",
        {"a": {"dtype": "F32", "shape": [1], "data_offsets": offsets}},
        bytes(4),
    )
    with pytest.raises(WeightsError, match="damaged or not a safetensors file"):
        read_state(path)


def test_tensors_that_overlap(tmp_path: Path) -> None:
    entry = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
    path = _header(tmp_path / "overlap.safetensors", {"a": entry, "b": entry}, bytes(4))
    with pytest.raises(WeightsError, match="damaged or not a safetensors file"):
        read_state(path)


@pytest.mark.parametrize("shape", [[2**40, 2**40], [2**64], [-1], [1.5], ["a"], None])
def test_shapes_that_lie(tmp_path: Path, shape: object) -> None:
    entry = {"dtype": "F32", "shape": shape, "data_offsets": [0, 4]}
    path = _header(tmp_path / "shape.safetensors", {"a": entry}, bytes(4))
    with pytest.raises(WeightsError, match="damaged or not a safetensors file"):
        read_state(path)


@pytest.mark.parametrize("kind", ["F8_E4M3", "F8_E5M2", "F4", "C64", "BOOL", "I64", "F99"])
def test_every_type_of_numbers_ends_in_words(tmp_path: Path, kind: str) -> None:
    sizes = {"C64": 8, "I64": 8, "F99": 4}
    entry = {
        "dtype": kind,
        "shape": [8],
        "data_offsets": [0, 8 * sizes.get(kind, 1) // (2 if kind == "F4" else 1)],
    }
    path = _header(tmp_path / "type.safetensors", {"a": entry}, bytes(entry["data_offsets"][1]))  # type: ignore[index]
    with pytest.raises(WeightsError, match=r"type\.safetensors"):
        load_network(ResolvedWeights("odd", path, "0" * 64), None)


def test_networks_of_every_size_stay_welcome(tmp_path: Path) -> None:
    """The limits are far from a network with many small layers, and from one with few large ones."""
    for features, convolutions in ((4, 200), (250, 1)):
        path = tmp_path / "network.safetensors"
        save_file(Compact(num_feat=features, num_conv=convolutions, upscale=2).state_dict(), path)
        assert load_network(ResolvedWeights("own", path, "0" * 64), None).native_scale == 2


@pytest.mark.parametrize("name", HOSTILE)
def test_a_file_that_describes_far_more_than_it_holds_is_refused(name: str, refusals: dict[str, str]) -> None:
    assert HOSTILE[name][1] in refusals[name]


def test_the_limit_is_held_before_memory_is_taken() -> None:
    column = torch.zeros(2**20, 1)
    with BoundedTensors(2**24, None, 100):
        assert (column[:16] + column[:16].T).shape == (16, 16)
        assert torch.zeros(2**24).numel() == 2**24
        with pytest.raises(TooLargeError):
            column + column.T
        with pytest.raises(TooLargeError):
            torch.zeros(2**20, 2**20)
        with pytest.raises(TooLargeError):
            column.repeat(1, 2**20)
    with BoundedTensors(10, 20, 100), pytest.raises(TooLargeError):
        for _ in range(3):
            torch.zeros(9)
    with BoundedTensors(10, None, 5), pytest.raises(TooLargeError):
        for _ in range(6):
            torch.zeros(1)
