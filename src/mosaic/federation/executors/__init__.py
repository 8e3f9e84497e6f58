"""How requests reach clients: one after another here, on other processes and machines elsewhere."""

from mosaic.federation.executors.base import ClientExecutor
from mosaic.federation.executors.serial import SerialExecutor

__all__ = ["ClientExecutor", "SerialExecutor"]
