"""Loggers, under the name Lightning users know: ``leyden.loggers``."""

from leyden.handlers.loggers import (
    CSVLogger,
    DummyLogger,
    LightningLoggerBase,
    LoggerCollection,
    MLFlowLogger,
    TensorBoardLogger,
    WandbLogger,
    merge_dicts,
    rank_zero_experiment,
    rank_zero_only,
)

__all__ = [
    "CSVLogger",
    "DummyLogger",
    "LightningLoggerBase",
    "LoggerCollection",
    "MLFlowLogger",
    "TensorBoardLogger",
    "WandbLogger",
    "merge_dicts",
    "rank_zero_experiment",
    "rank_zero_only",
]
