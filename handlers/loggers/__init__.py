"""Loggers: where metrics and hyper-parameters go."""

from leyden.handlers.loggers.base import (
    DummyExperiment,
    DummyLogger,
    LightningLoggerBase,
    merge_dicts,
    rank_zero_experiment,
    rank_zero_only,
)
from leyden.handlers.loggers.collection import LoggerCollection
from leyden.handlers.loggers.csv import CSVLogger
from leyden.handlers.loggers.guard import LoggerGuard
from leyden.handlers.loggers.mlflow import MLFlowLogger
from leyden.handlers.loggers.tensorboard import TensorBoardLogger
from leyden.handlers.loggers.wandb import WandbLogger

__all__ = [
    "CSVLogger",
    "DummyExperiment",
    "DummyLogger",
    "LightningLoggerBase",
    "LoggerCollection",
    "LoggerGuard",
    "MLFlowLogger",
    "TensorBoardLogger",
    "WandbLogger",
    "merge_dicts",
    "rank_zero_experiment",
    "rank_zero_only",
]
