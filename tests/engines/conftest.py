"""Small real networks, and engines over them on the CPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from spandrel.architectures.Compact import Compact

from comic_upscale.engines import registry
from comic_upscale.engines.base import Engine
from comic_upscale.engines.torch.cores import all_threads
from comic_upscale.models.network import Network
from comic_upscale.settings.job import JobSettings
from tests.conftest import MakeJob
from tests.engines.fake_imagen import PRICE, FakeImagen, serve

MakeNetwork = Callable[..., Network]


@pytest.fixture(scope="session")
def flux(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The folder of a tiny FLUX, and an encoded prompt. Needs the extra [flux]."""
    from tests.engines.tiny_flux import make_embeddings, make_flux

    folder = tmp_path_factory.mktemp("flux")
    return make_flux(folder / "tiny-flux"), make_embeddings(folder / "prompt.safetensors")


@pytest.fixture
def make_flux_job(
    flux: tuple[Path, Path], make_job: MakeJob, tiny_weights: Path
) -> Callable[..., JobSettings]:
    def make(changes: dict[str, object] | None = None, **options: object) -> JobSettings:
        given = {
            "pipeline": flux[0], "embeddings": flux[1], "first_pass": tiny_weights, "tile": 64, "overlap": 16,
            "steps": 4, "strength": 0.5, **options,
        }  # fmt: skip
        return make_job(
            backend="flux",
            model="auto",
            device="cpu",
            engine_options={name: value for name, value in given.items() if value is not None},
            **{"gate": False, **(changes or {})},
        )

    return make


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Let torch compute on one thread: with layers this small, its threads would only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    all_threads.cache_clear()
    yield
    torch.set_num_threads(before)
    all_threads.cache_clear()


@pytest.fixture(scope="session")
def make_network() -> MakeNetwork:
    """Wrap a module as a network of x4 for RGB that is known to work in every precision."""

    def make(module: torch.nn.Module, **known: object) -> Network:
        facts: dict[str, object] = {
            "native_scale": 4,
            "input_channels": 3,
            "output_channels": 3,
            "supports_half": True,
            "supports_bfloat16": True,
            "architecture": "test",
            "multiple_of": 1,
            "minimum": 0,
            "square": False,
            "receptive_radius": None,
            "is_local": True,
        }
        return Network(module=module.eval().requires_grad_(False), **{**facts, **known})  # type: ignore[arg-type]

    return make


@pytest.fixture(scope="session")
def compact(make_network: MakeNetwork) -> Network:
    """A compact network of x4 with random weights whose output stays visible: its reach is 4 pixels."""
    torch.manual_seed(7)
    return make_network(Compact(num_feat=8, num_conv=2, upscale=4), receptive_radius=4)


@pytest.fixture(scope="session")
def gray_compact(make_network: MakeNetwork) -> Network:
    """The same for gray pages."""
    torch.manual_seed(8)
    module = Compact(num_in_ch=1, num_out_ch=1, num_feat=8, num_conv=2, upscale=4)
    return make_network(module, input_channels=1, output_channels=1, receptive_radius=4)


@pytest.fixture(scope="session")
def tiny_restorer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """RestoreFormer with random weights, as small as its architecture can be."""
    from spandrel.architectures.RestoreFormer import RestoreFormer  # type: ignore[import-untyped]

    torch.manual_seed(1)
    network = RestoreFormer(
        n_embed=4, embed_dim=32, ch=32, ch_mult=(1, 1, 1, 1, 1, 1), num_res_blocks=1, attn_resolutions=(16,),
        resolution=512, z_channels=32, head_size=8,
    )  # fmt: skip
    path = tmp_path_factory.mktemp("faces") / "tiny.pth"
    torch.save(network.state_dict(), path)
    return path


def open_engine(settings: JobSettings) -> Engine:
    """Open the only engine of a job."""
    (engine,) = registry.open_engines(settings, registry.prepare_engine(settings))
    return engine


@pytest.fixture(scope="session")
def imagen_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[FakeImagen, Path]]:
    """A server that stands for Imagen, and the file of an account of it."""
    with serve() as fake:
        yield fake, fake.key_file(tmp_path_factory.mktemp("imagen") / "key.json")


@pytest.fixture
def fake(imagen_server: tuple[FakeImagen, Path]) -> FakeImagen:
    """That server, without anything from an earlier test."""
    fake = imagen_server[0]
    fake.planned, fake.calls, fake.tones, fake.billed, fake.token = [], [], [], 0, None
    fake.on_call = lambda: None
    return fake


@pytest.fixture
def make_imagen(
    imagen_server: tuple[FakeImagen, Path], fake: FakeImagen, make_job: MakeJob
) -> Callable[..., JobSettings]:
    def make_settings(changes: dict[str, object] | None = None, **options: object) -> JobSettings:
        given = {
            "project": "my-project", "price_per_image": PRICE, "credentials": imagen_server[1],
            "endpoint": fake.address, **options,
        }  # fmt: skip
        values = {"backend": "imagen", "model": "auto", "engine_options": given, **(changes or {})}
        return make_job(**values)

    return make_settings
