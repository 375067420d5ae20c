"""Examine an unknown network before pages are cut into tiles for it.

The network runs on two small images. It looks at a whole page at once if one of its operations reduces over the whole
page, or if one side of the output changes with the other side of the image.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from comic_upscale.engines.reach import draw_test_image, sees_far, side_of_test_image
from comic_upscale.engines.torch.network_pass import NetworkPass
from comic_upscale.imaging.pixels import UInt8Array
from comic_upscale.models.network import Network


@dataclass(frozen=True, slots=True)
class Examination:
    """Properties of a network, measured on two small images."""

    sees_whole: bool
    """Whether a page in tiles differs from the whole page."""
    bytes_per_pixel: float
    """Peak memory of its tensors, per pixel of input."""
    elements_per_pixel: float
    """Elements of its largest tensor, per pixel of input."""


def examine(forward: NetworkPass, network: Network) -> Examination:
    """Examine a network on its device and in its precision.

    Raises:
        RuntimeError: from torch, if not even the test image fits into memory.
    """
    channels = network.input_channels
    side = side_of_test_image(network.minimum, network.multiple_of)

    def run(picture: UInt8Array) -> Any:
        x = torch.from_numpy(picture.copy()).to(forward.device).permute(2, 0, 1)[None] / 255
        return forward.compute(x)[0].float().cpu().numpy()

    # In inference mode, torch does not decompose operations into those that `_Watch` recognises.
    with torch.inference_mode(False), torch.no_grad():
        with _Watch() as small:
            run(draw_test_image((side, side), channels))
        with _Watch() as large:
            run(draw_test_image((2 * side, 2 * side), channels))
        far = large.goes_over_a_page or sees_far(run, channels, (side, side))
    # The difference of two sizes, so that padding around the page is not counted per pixel.
    more = 3 * side * side
    return Examination(
        sees_whole=far,
        bytes_per_pixel=(large.most_bytes - small.most_bytes) / more,
        elements_per_pixel=(large.most_elements - small.most_elements) / more,
    )


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While active, observes every operation and its results.

    Only operations on one page (N = 1) are considered. A network that cuts its input into windows has them in the
    batch, and an operation over one window is not over the whole page.
    """

    _REDUCTIONS: ClassVar = frozenset(
        (
            "mean",
            "sum",
            "amax",
            "amin",
            "max",
            "min",
            "var",
            "std",
            "var_mean",
            "std_mean",
            "linalg_vector_norm",
        )
    )
    _POOLS: ClassVar = frozenset(("_adaptive_avg_pool2d", "adaptive_avg_pool2d", "adaptive_max_pool2d"))

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.goes_over_a_page = False
        self.most_bytes = self.most_elements = 0
        self._bytes = 0
        self._storages: set[int] = set()

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run an operation and observe it."""
        call: Callable[..., Any] = func
        made = call(*args, **(kwargs or {}))
        given = dict(zip((each.name for each in func._schema.arguments), args, strict=False)) | dict(
            kwargs or {}
        )
        if self._goes_over_its_page(str(func.overloadpacket.__name__), given):
            self.goes_over_a_page = True
        for each in made if isinstance(made, list | tuple) else (made,):
            if isinstance(each, torch.Tensor):
                self._note(each)
        return made

    def _note(self, tensor: torch.Tensor) -> None:
        self.most_elements = max(self.most_elements, tensor.numel())
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._storages:
            return
        self._storages.add(key)
        self._bytes += size
        self.most_bytes = max(self.most_bytes, self._bytes)
        weakref.finalize(storage, self._forget, key, size)

    def _forget(self, key: int, size: int) -> None:
        self._storages.discard(key)
        self._bytes -= size

    def _goes_over_its_page(self, name: str, given: Mapping[str, Any]) -> bool:
        page = given.get("self", given.get("input"))
        if not isinstance(page, torch.Tensor) or page.dim() < 3 or page.shape[0] != 1:
            return False
        if "group_norm" in name:
            return True
        if "batch_norm" in name:
            # Instance normalization uses the statistics of the page itself; otherwise those of the training are used.
            return name.endswith("no_stats") or bool(given.get("training"))
        if page.dim() != 4 or page.shape[2] * page.shape[3] == 1:
            return False
        if name in self._POOLS:
            return list(given["output_size"]) == [1, 1]
        if "pool2d" in name and "kernel_size" in given:
            return list(given["kernel_size"]) == list(page.shape[2:])
        if name in self._REDUCTIONS:
            dims = given.get("dim")
            if dims is None:
                return True
            over = {dim % 4 for dim in ([dims] if isinstance(dims, int) else dims)}
            return over >= {2, 3} or over >= {1, 2}
        return False
