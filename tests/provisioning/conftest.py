"""The providers of the tests, and a clock that does not wait."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

import pytest

from comic_upscale.provisioning.base import Provider
from comic_upscale.provisioning.lambda_cloud import LambdaCloud
from comic_upscale.provisioning.lifecycle import Timing
from comic_upscale.provisioning.runpod import RunPod
from comic_upscale.provisioning.sky import Sky
from comic_upscale.provisioning.vast import Vast
from comic_upscale.retries import RetryPolicy
from tests.provisioning.clouds import KEY, Cloud
from tests.provisioning.sky_program import SkyCloud, call_directly

CLIENTS: dict[str, Callable[..., Provider]] = {"runpod": RunPod, "vast": Vast, "lambda": LambdaCloud}
"""Those that speak HTTP, and have a key."""


@dataclass
class Clock:
    """Time passes only while somebody waits."""

    now: float = 0.0
    pauses: list[float] = field(default_factory=list)

    def wait(self, seconds: float) -> bool:
        self.now += seconds
        self.pauses.append(seconds)
        return False

    def timing(self) -> Timing:
        return Timing(wait=lambda seconds: void(self.wait(seconds)), clock=lambda: self.now)


def void(_: object) -> None:
    pass


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=list(CLIENTS))
def cloud(request: pytest.FixtureRequest) -> Iterator[Cloud]:
    """A provider with a bill."""
    cloud = SkyCloud("sky") if request.param == "sky" else Cloud(request.param)
    cloud.start()
    yield cloud
    cloud.stop()


@pytest.fixture
def provider(cloud: Cloud, clock: Clock) -> Iterator[Provider]:
    """The client of this provider."""
    policy = RetryPolicy(attempts=5, wait=clock.wait)
    client: Provider
    if isinstance(cloud, SkyCloud):
        # A process for each of hundreds of calls would take minutes. `test_sky.py` runs the program.
        client = Sky(cloud.url, str(cloud.folder / "ssh"), policy, partial(call_directly, cloud))
    else:
        client = CLIENTS[cloud.provider](KEY, cloud.url, policy)
    yield client
    client.close()
