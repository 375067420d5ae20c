"""``--spot-notice``: a run stops in time when the cloud takes its spot machine back."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from comic_upscale.execution.stop import StopRequest
    from comic_upscale.provisioning.spot import SpotCloud


@contextmanager
def heeding(cloud: SpotCloud | None, stop: StopRequest) -> Iterator[None]:
    """Stop a run inside the block when a cloud takes this machine back; do nothing for None.

    Raises:
        SettingsError: this is no machine of that cloud.
    """
    if cloud is None:
        yield
        return
    from comic_upscale.execution.stop import SPOT
    from comic_upscale.provisioning.spot import SpotNotice, watch

    notice = SpotNotice(cloud, _address(cloud))
    notice.check()
    with watch(notice, lambda text: stop.request(text, SPOT)):
        yield


def _address(cloud: SpotCloud) -> str | None:
    """Return another address of the metadata service, from the variables that the clouds' own programs read."""
    if cloud == "aws":
        return os.environ.get("AWS_EC2_METADATA_SERVICE_ENDPOINT") or None
    host = os.environ.get("GCE_METADATA_HOST")
    return f"http://{host}" if host else None
