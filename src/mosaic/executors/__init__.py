"""Carry requests to clients: in this process, in other processes, or on other machines."""

from mosaic.executors.base import ClientExecutor
from mosaic.executors.processes.executor import RanksExecutor
from mosaic.executors.ray.executor import RayExecutor
from mosaic.executors.remote.flower import FlowerExecutor
from mosaic.executors.serial import SerialExecutor
from mosaic.executors.side_by_side import SideBySideExecutor

__all__ = [
    "ClientExecutor", "FlowerExecutor", "RanksExecutor", "RayExecutor", "SerialExecutor", "SideBySideExecutor",
]  # fmt: skip
