"""The providers by name. A client is imported when it is opened."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from comic_upscale.errors import SettingsError
from comic_upscale.provisioning.base import Provider


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderEntry:
    """Where the key and the address of a provider come from."""

    key_variable: str = ""
    """The environment variable with the key. With ``_FILE`` at its end, another one names a file with the key."""
    url_variable: str
    """The environment variable with another address of its interface, for a test server; or another program."""
    key_files: tuple[str, ...] = ()
    """Where the provider's own program keeps the key, below the home folder."""
    program: str = ""
    """The program that is called in place of an interface. It finds its keys itself."""


PROVIDERS: Mapping[str, ProviderEntry] = MappingProxyType(
    {
        "vast": ProviderEntry(
            key_variable="VAST_API_KEY",
            url_variable="VAST_URL",
            key_files=(".config/vastai/vast_api_key", ".vast_api_key"),
        ),
        "runpod": ProviderEntry(
            key_variable="RUNPOD_API_KEY", url_variable="RUNPOD_API_URL", key_files=(".runpod/config.toml",)
        ),
        "lambda": ProviderEntry(
            key_variable="LAMBDA_API_KEY",
            url_variable="LAMBDA_API_URL",
            key_files=(".lambda_cloud/lambda_keys",),
        ),
        "aws": ProviderEntry(key_variable="AWS_ACCESS_KEY_ID", url_variable="AWS_ENDPOINT_URL"),
        "sky": ProviderEntry(url_variable="SKY_PROGRAM", program="sky"),
    }
)
ANY = "any"
"""Stands for all providers whose key is known."""


def open_provider(name: str, key: str, base_url: str | None = None) -> Provider:
    """Return the client of a provider.

    Args:
        name: one of `PROVIDERS`.
        key: the key; boto3 finds that for AWS itself, and SkyPilot those of its clouds.
        base_url: of its interface, in place of the usual one; for SkyPilot, the path of its program.
    """
    if name == "vast":
        from comic_upscale.provisioning import vast

        return vast.Vast(key, base_url or vast.BASE_URL)
    if name == "runpod":
        from comic_upscale.provisioning import runpod

        return runpod.RunPod(key, base_url or runpod.BASE_URL)
    if name == "lambda":
        from comic_upscale.provisioning import lambda_cloud

        return lambda_cloud.LambdaCloud(key, base_url or lambda_cloud.BASE_URL)
    if name == "sky":
        from comic_upscale.provisioning import sky

        return sky.Sky(base_url or sky.PROGRAM)
    from comic_upscale.provisioning import aws

    return aws.Aws(base_url=base_url)


def parse_target(text: str) -> tuple[str, str | None]:
    """Return the provider and the GPU of ``PROVIDER`` or ``PROVIDER:GPU``.

    Raises:
        SettingsError: there is no such provider.
    """
    name, _, gpu = text.partition(":")
    name = name.strip().casefold()
    if name != ANY and name not in PROVIDERS:
        raise SettingsError(
            f"{text!r} names no provider: give {', '.join(PROVIDERS)} or {ANY}, such as vast:4090"
        )
    return name, gpu.strip() or None
