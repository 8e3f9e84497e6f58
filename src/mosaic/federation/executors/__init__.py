"""How requests reach clients: one after another here, on other processes and machines elsewhere."""

from mosaic.federation.executors.base import ClientExecutor
from mosaic.federation.executors.ranks import RanksExecutor
from mosaic.federation.executors.ray import RayExecutor
from mosaic.federation.executors.serial import SerialExecutor

__all__ = ["ClientExecutor", "RanksExecutor", "RayExecutor", "SerialExecutor"]
