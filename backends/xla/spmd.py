"""All cores in one process: the mesh they form, batches cut among them, weights whole or cut."""

from typing import Any

import torch
from torch import Tensor, nn

from leyden.backends.xla.trees import each_tensor

__all__ = ["Mesh", "shard_parameters"]


class Mesh:
    """All devices of this process in a row, each of which takes a part of every batch.

    Args:
        axis: what the row is called; only its name differs between the uses.
    """

    def __init__(self, axis: str = "data") -> None:
        import numpy
        import torch_xla.distributed.spmd as xs
        import torch_xla.runtime as xr

        self.axis = axis
        self.size = int(xr.global_runtime_device_count())
        self._mark = xs.mark_sharding
        self._mesh = xs.Mesh(numpy.arange(self.size), (self.size,), (axis,))
        xs.set_global_mesh(self._mesh)

    def split(self, batch: Any) -> Any:
        """Cut every tensor of a batch along its first dimension, unless somebody has cut it.

        What has no dimension goes to all devices.
        """
        import torch_xla

        known = torch_xla._XLAC._get_xla_sharding_spec
        for tensor in each_tensor(batch):
            if tensor.dim() and tensor.device.type == "xla" and not known(tensor):
                self.cut(tensor, 0)
        return batch

    def cut(self, tensor: Tensor, dim: int) -> None:
        """Give each device a part of ``tensor`` along ``dim``; the last one's may be shorter."""
        places: list[str | None] = [None] * tensor.dim()
        places[dim] = self.axis
        self._mark(tensor, self._mesh, tuple(places))


def shard_parameters(model: nn.Module, mesh: Mesh) -> None:
    """Cut every parameter along its longest dimension, so that a device holds its part only.

    What needs a whole one gathers it for that moment, as XLA's compiler decides: torch_xla's own
    ``SpmdFullyShardedDataParallel`` marks the same tensors. It is not used, because it puts a
    module around the model: all names would change, and a step that calls a submodule would go past
    it.
    """
    for parameter in model.parameters():
        if parameter.dim():
            mesh.cut(parameter, int(torch.tensor(parameter.shape).argmax()))
