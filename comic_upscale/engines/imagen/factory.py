"""The registry's entry for Imagen. It imports neither google-auth nor requests."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from annotated_types import Ge, Le

from comic_upscale.engines.base import (
    Calls,
    Engine,
    EngineFactory,
    EngineResources,
    EngineSpec,
    Identity,
    OnProgress,
)
from comic_upscale.engines.unsupported import refuse_device_options, refuse_network_options
from comic_upscale.errors import SettingsError
from comic_upscale.settings.options import Opt

NAME = "imagen"
"""The engine's name in the registry."""
MODEL = "imagen-4.0-upscale-preview"
"""The only model of Vertex AI that enlarges images, in November 2026."""
_LOCAL = ("localhost", "127.0.0.1", "::1")
_WORD = re.compile(r"[a-z0-9][a-z0-9.:@_-]{0,127}")
"""A project, region or model. It becomes a part of an address."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImagenOptions:
    """Options of the engine ``imagen``."""

    project: Annotated[str, Opt("The id of your project in Google Cloud, which is billed.")]
    price_per_image: Annotated[
        float,
        Ge(0),
        Opt(
            "Dollars for one call, from the price list of Vertex AI. Each tile of a page is a call. --max-cost and "
            "`status` count with it.",
        ),
    ]
    region: Annotated[str, Opt("The region of the service.")] = "us-central1"
    model: Annotated[str, Opt("The model of the service.", fingerprint="always")] = MODEL
    credentials: Annotated[
        Path | None,
        Opt("The JSON file of a service account. auto: the default credentials of this machine (gcloud)."),
    ] = None
    prompt: Annotated[
        str, Opt("A description of the pages. Empty is the service's own default.", fingerprint="if-changed")
    ] = ""
    overlap: Annotated[
        int,
        Ge(0),
        Le(512),
        Opt("Overlap of tiles in input pixels, along which they are blended.", fingerprint="if-changed"),
    ] = 64
    at_once: Annotated[int, Ge(1), Le(16), Opt("Pages at once. The service allows 50 calls a minute.")] = 1
    attempts: Annotated[
        int, Ge(1), Le(20), Opt("The most attempts of a call, if the service is busy or fails.")
    ] = 6
    timeout: Annotated[float, Ge(1), Le(3600), Opt("Seconds to wait for the answer to a call.")] = 300.0
    endpoint: Annotated[
        str | None, Opt("Another address of the service, https://HOST. auto: that of the region.")
    ] = None

    @property
    def address(self) -> str:
        """The address of the service, without a slash at its end."""
        return (self.endpoint or f"https://{self.region}-aiplatform.googleapis.com").rstrip("/")


class ImagenFactory(EngineFactory):
    """Opens ``ImagenEngine``, one for each page that is worked on at once."""

    name = NAME
    summary = (
        "Imagen, a service of Google Cloud that is billed by call. Pages are uploaded, and details invented."
    )
    options = ImagenOptions
    packages = ("google.auth", "requests")
    install = "pip install 'comic-upscale[imagen]'"
    billing = "call"

    def identify(self, spec: EngineSpec) -> Identity:
        """Return the model's name and a hash of it. The service does not tell when it changes a model."""
        refuse_network_options(spec, model="use --engine-option model=NAME")
        options: ImagenOptions = spec.options
        _check_options(options)
        content = json.dumps([NAME, options.model])
        return Identity(options.model, hashlib.sha256(content.encode()).hexdigest())

    def count_calls(self, spec: EngineSpec, size: tuple[int, int], target: tuple[int, int]) -> Calls:
        """Return a call for each tile of a page. Each attempt that fails after it was sent costs another one."""
        from comic_upscale.engines.imagen.tiles import choose_factor, plan_tiles

        count = len(plan_tiles(size, choose_factor(size, target), spec.options.overlap))
        return Calls(count, count * spec.options.price_per_image)

    def prepare(self, spec: EngineSpec, on_progress: OnProgress | None = None) -> EngineSpec:
        """Check that the file with the credentials exists. Nothing is sent."""
        path = spec.options.credentials
        if path is not None and not path.is_file():
            raise SettingsError(f"--engine-option credentials: there is no file {path}")
        self.identify(spec)
        return spec

    def open(self, spec: EngineSpec, resources: EngineResources) -> list[Engine]:
        """Load the credentials, and return an engine for each page at once."""
        refuse_device_options(NAME, resources)
        from comic_upscale.engines.imagen.client import ImagenClient, load_credentials
        from comic_upscale.engines.imagen.engine import ImagenEngine
        from comic_upscale.storage.answers import AnswerStore

        options: ImagenOptions = spec.options
        credentials = load_credentials(options.credentials)
        answers = None if spec.answers is None else AnswerStore(spec.answers)
        identity = self.identify(spec).digest
        return [
            ImagenEngine(options, ImagenClient(options, credentials), identity=identity, answers=answers)
            for _ in range(options.at_once)
        ]


FACTORY = ImagenFactory()


def _check_options(options: ImagenOptions) -> None:
    for name in ("project", "region", "model"):
        if not _WORD.fullmatch(getattr(options, name)):
            raise SettingsError(
                f"--engine-option {name} must be a name of Google Cloud, not {getattr(options, name)[:64]!r}"
            )
    address = urlsplit(options.address)
    # The token of the account is sent there.
    if not address.hostname or (address.scheme != "https" and address.hostname not in _LOCAL):
        raise SettingsError(
            f"--engine-option endpoint must be https://HOST, not {options.address[:128]!r}: the token of your "
            "account is sent there"
        )
