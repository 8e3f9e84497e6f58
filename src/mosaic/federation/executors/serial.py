"""One client after another, in this process."""

from collections.abc import Iterable, Iterator

import torch

from mosaic.client.worker import Worker
from mosaic.errors import MosaicError
from mosaic.federation.executors.base import ClientExecutor
from mosaic.messages import Reply, Request


class SerialExecutor(ClientExecutor):
    """Answers requests in this process; with ``trainer.devices`` above one, every phase is data-parallel.

    Args:
        threads: CPU threads of the process, for clients and server; PyTorch's own choice when not given. Small nets
            are fastest with one. Results are bit-identical only for equal threads.
    """

    def __init__(self, threads: int | None = None) -> None:
        super().__init__()
        if threads is not None and threads < 1:
            raise MosaicError(f"executor.threads: expected at least 1, got {threads}")
        self.threads = threads
        self._worker: Worker | None = None

    def start(self, worker: Worker) -> None:
        """Take the worker and set the threads."""
        self._worker = worker
        if self.threads is not None:
            torch.set_num_threads(self.threads)

    def map(self, requests: Iterable[Request]) -> Iterator[Reply]:
        """Answer each request when its reply is asked for."""
        assert self._worker is not None, "start() comes before map()"
        for request in requests:
            yield self._handle(self._worker, request)

    def close(self) -> None:
        """Forget the worker."""
        self._worker = None
