"""The options for a Ray cluster."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from annotated_types import Ge, Le

from comic_upscale.settings.options import Opt, check, definitions

if TYPE_CHECKING:
    from comic_upscale.execution.ray.options import RayOptions

PANEL = "Many machines"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterOptions:
    """The Ray cluster of a run."""

    cluster: Annotated[
        str | None,
        Opt(
            "Let a Ray cluster process the pages: auto for the one of this machine, or ray://HOST:10001.",
            metavar="ADDRESS", panel=PANEL,
        ),
    ] = None  # fmt: skip
    cluster_actors: Annotated[
        int | None, Ge(1),
        Opt(
            "Processes on the cluster. Default: one for each GPU, or without GPUs as many as the cores allow.",
            metavar="N", panel=PANEL,
        ),
    ] = None  # fmt: skip
    cluster_cpus: Annotated[
        int | None, Ge(1),
        Opt(
            "Cores of each process on the cluster. Default: those that a GPU has for itself, or 4.",
            metavar="N", panel=PANEL,
        ),
    ] = None  # fmt: skip
    cluster_gpus: Annotated[
        int | None, Ge(0), Le(1),
        Opt(
            "GPUs of each process on the cluster. Give 1 if the cluster adds machines with GPUs as needed.",
            metavar="0|1", panel=PANEL,
        ),
    ] = None  # fmt: skip

    def __post_init__(self) -> None:
        """Check every value."""
        check(self)

    def ray_options(self) -> RayOptions | None:
        """Return how the run uses the cluster; None without one.

        Raises:
            SettingsError: this is no address of a cluster.
        """
        if self.cluster is None:
            return None
        from comic_upscale.commands.environment import bucket_variables
        from comic_upscale.execution.ray.options import RayOptions

        return RayOptions(
            address=self.cluster,
            actors=self.cluster_actors,
            cpus=self.cluster_cpus,
            gpus=self.cluster_gpus,
            environment=bucket_variables(),
        )


CLUSTER = definitions(ClusterOptions)
