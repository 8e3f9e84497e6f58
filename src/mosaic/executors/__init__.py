"""How requests reach clients: one after another here, on other processes and machines elsewhere."""

from mosaic.executors.base import ClientExecutor
from mosaic.executors.processes.executor import RanksExecutor
from mosaic.executors.ray.executor import RayExecutor
from mosaic.executors.serial import SerialExecutor

__all__ = ["ClientExecutor", "RanksExecutor", "RayExecutor", "SerialExecutor"]
