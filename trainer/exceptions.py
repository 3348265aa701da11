"""The exceptions users catch, under the names Lightning gave them."""

from leyden.engine.errors import (
    MisconfigurationException,
    MisconfiguredType,
    MisconfiguredValue,
    NotBuilt,
)

__all__ = ["MisconfigurationException", "MisconfiguredType", "MisconfiguredValue", "NotBuilt"]
