"""One client after another, in this process."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import replace

import torch

from mosaic.batches import world_size
from mosaic.client.worker import Worker
from mosaic.codec import decode, encode
from mosaic.executors.base import ClientExecutor, answer, failed
from mosaic.messages import ClientState, GeneratorReply, Reply, Request, TrainReply


class SerialExecutor(ClientExecutor):
    """Answers requests in this process; with ``trainer.devices`` above one, every phase is data-parallel.

    Args:
        threads: CPU threads of the process, for clients and server; PyTorch's own choice when not given. Small nets
            are fastest with one. Results are bit-identical only for equal threads.
    """

    def __init__(self, threads: int | None = None) -> None:
        super().__init__(threads)
        self._variables_before = {key: value for key, value in os.environ.items() if key == "OMP_NUM_THREADS"}

    def start(self, worker: Worker) -> None:
        """Take the worker and set the threads; Lightning sets them anew where this variable does not say them."""
        super().start(worker)
        if self.threads is not None:
            torch.set_num_threads(self.threads)
            os.environ["OMP_NUM_THREADS"] = str(self.threads)

    def map(self, requests: Iterable[Request], deadline: float | None = None) -> Iterator[Reply]:
        """Answer each request when its reply is asked for."""
        assert self._worker is not None, "start() comes before map()"
        for request in requests:
            try:
                reply = self._handle(self._worker, request)
            except Exception as error:  # whatever carries the request to the client may fail too
                if world_size() > 1:
                    raise
                reply = failed(request.client, error)
            yield _agreed(reply)

    def _handle(self, worker: Worker, request: Request) -> Reply:
        before = self._state(request.client)
        envelope = answer(worker, request, before)
        self._keep_new(request.client, before, envelope.state)
        return envelope.message

    def _keep_new(self, client: int, before: ClientState, state: ClientState) -> None:
        if state is not before:  # a large one would be written to disk again
            self._keep(client, state)

    def close(self) -> None:
        """Leave threads and variable as they were."""
        super().close()
        os.environ.pop("OMP_NUM_THREADS", None)
        os.environ.update(self._variables_before)


def _agreed(reply: Reply) -> Reply:
    """Give every rank the reply of rank 0.

    What comes out of a training phase is equal on all ranks already; counts and cluster centres are computed by each,
    and on GPUs they may differ in the last digit, which would lead ranks into phases of different length.
    """
    if world_size() == 1 or isinstance(reply, GeneratorReply):
        return reply
    if isinstance(reply, TrainReply):
        judged = [reply.judgement]
        if reply.judgement:
            torch.distributed.broadcast_object_list(judged, src=0)
        return replace(reply, judgement=judged[0])
    carrier = [encode(reply)]
    torch.distributed.broadcast_object_list(carrier, src=0)
    return decode(carrier[0], type(reply))
