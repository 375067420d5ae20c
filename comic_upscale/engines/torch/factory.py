"""The registry's entry for the engine that runs networks with torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge

from comic_upscale.engines.base import Engine, EngineResources, EngineSpec
from comic_upscale.engines.catalogue import CatalogueFactory
from comic_upscale.settings.options import Opt


@dataclass(frozen=True, slots=True, kw_only=True)
class TorchOptions:
    """Options of the engine ``torch``."""

    overlap: Annotated[
        int | None,
        Ge(0),
        Opt(
            "Overlap of tiles in input pixels. auto: the receptive radius of the network if it is known and at most "
            "48, otherwise 32.",
            fingerprint="if-changed",
        ),
    ] = None


class TorchFactory(CatalogueFactory):
    """Opens ``TorchEngine``, one for each device, or several that share a processor."""

    name = "torch"
    summary = "Networks of all architectures in spandrel, with PyTorch on CPU, CUDA, XPU or MPS. The default."
    options = TorchOptions

    def open(self, spec: EngineSpec, resources: EngineResources) -> list[Engine]:
        """Load the network and put it on every device, with the best number of engines for each."""
        from comic_upscale.engines.torch.device import parse_devices
        from comic_upscale.engines.torch.engine import open_torch_engines
        from comic_upscale.models.network import load_network

        assert spec.weights is not None
        devices = parse_devices(resources.device)
        network = load_network(spec.weights, spec.denoise)
        return [
            engine
            for device in devices
            for engine in open_torch_engines(
                network,
                device,
                precision=resources.precision,
                batch=resources.batch,
                tile=resources.tile,
                overlap=spec.options.overlap,
            )
        ]


FACTORY = TorchFactory()
