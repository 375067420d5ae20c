from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from PIL import Image

from comic_upscale.engines.base import Batch
from comic_upscale.engines.torch import cores as cores_module
from comic_upscale.engines.torch.cores import SharedCores, all_threads
from comic_upscale.engines.torch.engine import TorchEngine, open_torch_engines
from comic_upscale.evaluation import trial
from comic_upscale.models.network import Network
from tests.engines.conftest import MakeNetwork

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _four_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    all_threads.cache_clear()
    yield
    torch.set_num_threads(before)
    all_threads.cache_clear()


def test_who_works_alone_has_all_cores_and_two_have_half_each() -> None:
    cores = SharedCores(4)
    inside, leave = threading.Barrier(2), threading.Event()
    counts: list[int] = []

    def work() -> None:
        with cores.share() as threads:
            counts.extend((threads, torch.get_num_threads()))
            inside.wait()
            leave.wait()

    other = threading.Thread(target=work)
    other.start()
    inside.wait()
    with cores.share() as threads:
        assert threads == torch.get_num_threads() == 2
    leave.set()
    other.join()
    assert counts == [4, 4]
    with cores.share() as threads:
        assert threads == 4


def test_an_error_leaves_the_cores_to_the_others() -> None:
    cores = SharedCores(2)
    with pytest.raises(RuntimeError), cores.share():
        raise RuntimeError
    with cores.share() as threads:
        assert threads == 2


def test_as_many_engines_as_cores_but_not_more_than_memory_is_for(
    compact: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    engines = open_torch_engines(compact, CPU)
    assert [str(engine.info.device) for engine in engines] == ["cpu (4 threads, 4 pages at once)"] * 4
    monkeypatch.setattr(cores_module, "MOST_AT_ONCE", 3)
    assert len(open_torch_engines(compact, CPU)) == 3
    torch.set_num_threads(1)
    all_threads.cache_clear()
    (alone,) = open_torch_engines(compact, CPU)
    assert str(alone.info.device) == "cpu (1 thread)"


def test_a_network_that_does_not_go_in_strips_has_one_engine(make_network: MakeNetwork) -> None:
    module = torch.nn.Upsample(scale_factor=4)
    (engine,) = open_torch_engines(make_network(module), CPU)
    assert str(engine.info.device) == "cpu (4 threads)"


def test_networks_that_are_opened_later_get_all_cores(compact: Network, make_network: MakeNetwork) -> None:
    first = open_torch_engines(compact, CPU, precision="fp32")
    with first[0]._cores.share(), first[0]._cores.share():  # type: ignore[union-attr]
        pass
    seen: list[int] = []

    class Alone(torch.nn.Upsample):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(torch.get_num_threads())
            return super().forward(x)

    network = make_network(Alone(scale_factor=4))
    devices: list[str] = []

    def open_others() -> None:
        # As in a run: on a thread that began while the first network had a part of the cores.
        seen.append(torch.get_num_threads())
        others = [
            engine
            for each in (compact, network)
            for engine in open_torch_engines(each, CPU, precision="fp32")
        ]
        devices.extend(str(engine.info.device) for engine in others)
        others[-1].upscale(Batch(np.zeros((1, 8, 8, 3), np.uint8), (32, 32)))

    thread = threading.Thread(target=open_others)
    thread.start()
    thread.join()
    assert devices == ["cpu (4 threads, 4 pages at once)"] * 4 + ["cpu (4 threads)"]
    # New threads begin with a part.
    assert seen[0] == 2 and set(seen[1:]) == {4}


def test_side_by_side_engines_give_the_bits_of_one_alone(compact: Network) -> None:
    pages = np.random.default_rng(3).integers(0, 256, (8, 60, 45, 3), np.uint8)
    batches = [Batch(page[np.newaxis], (112, 150)) for page in pages]
    alone = TorchEngine(compact, device=CPU)
    expected = [alone.upscale(batch).pixels for batch in batches]
    engines = open_torch_engines(compact, CPU, precision="fp32")
    results: dict[int, np.ndarray] = {}  # type: ignore[type-arg]

    def work(engine: TorchEngine, numbers: range) -> None:
        for number in numbers:
            results[number] = engine.upscale(batches[number]).pixels

    threads = [
        threading.Thread(target=work, args=(engine, range(number, 8, 4)))
        for number, engine in enumerate(engines)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(np.array_equal(results[number], expected[number]) for number in range(8))


def test_all_cores_are_torchs_again_in_the_end(compact: Network) -> None:
    engines = open_torch_engines(compact, CPU)
    seen: list[int] = []
    with engines[0]._cores.share(), engines[0]._cores.share():  # type: ignore[union-attr]
        pass
    assert torch.get_num_threads() == 2
    for engine in engines:
        engine.close()
    thread = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert [torch.get_num_threads(), *seen] == [4, 4]


def test_a_page_of_a_trial_gets_its_part_of_all_cores() -> None:
    seen: list[int] = []

    class Upscaler:
        pages_at_once = 2

        def upscale(self, image: Image.Image, factor: float) -> Image.Image:
            seen.append(torch.get_num_threads())
            return image

    all_threads()
    # As a new thread begins while another page has its part.
    torch.set_num_threads(2)
    trial._Network(Upscaler())(Image.new("L", (8, 8)), 2.0)  # type: ignore[arg-type]
    assert [*seen, torch.get_num_threads()] == [2, 4]
