"""TPUs through torch_xla: its runtime, data on all cores, and the way back to the host."""

from leyden.backends.xla.host import to_host
from leyden.backends.xla.runtime import device_count, has_plain_tpu, problem, require

__all__ = ["device_count", "has_plain_tpu", "problem", "require", "to_host"]
