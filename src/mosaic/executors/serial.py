"""One client after another, in this process."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import replace

import torch

from mosaic.client.worker import Worker
from mosaic.codec import decode, encode
from mosaic.disk import DiskError
from mosaic.executors.base import ClientExecutor, failed
from mosaic.executors.injection import Fault
from mosaic.messages import ClientState, Reply, Request, TrainReply
from mosaic.ranks import said_by_rank_0, world_size


class SerialExecutor(ClientExecutor):
    """Answers requests in this process; with ``trainer.devices`` above one, every phase is data-parallel.

    Args:
        threads: CPU threads of the process, for clients and server; PyTorch's own choice when not given. Small nets
            are fastest with one. Results are bit-identical only for equal threads.
        faults: share of the requests that meet a fault on purpose, by its kind: exception, crash, delay, nan, shape,
            sender, garbage or huge. Nothing crashes here: the answer is lost.
    """

    def __init__(self, threads: int | None = None, faults: dict[str, float] | None = None) -> None:
        super().__init__(threads, faults)
        self._variables_before = {key: value for key, value in os.environ.items() if key == "OMP_NUM_THREADS"}

    def start(self, worker: Worker) -> None:
        """Take the worker and set the threads; Lightning sets them anew where this variable does not say them."""
        super().start(worker)
        if self.threads is not None:
            torch.set_num_threads(self.threads)
            os.environ["OMP_NUM_THREADS"] = str(self.threads)

    def map(self, requests: Iterable[Request], deadline: float | None = None) -> Iterator[Reply]:
        """Answer each request when its reply is asked for."""
        for request in requests:
            yield self._reply(request, deadline, self._injector.draw(request))

    def _reply(self, request: Request, deadline: float | None, fault: Fault) -> Reply:
        assert self._worker is not None, "start() comes before map()"
        try:
            reply = self._handle(self._worker, request, deadline, fault)
        except DiskError:  # of the states that this process keeps
            raise
        except Exception as error:  # whatever carries the request to the client may fail too
            if world_size() > 1:
                raise
            reply = failed(request.client, error)
        return _agreed(reply)

    def _handle(self, worker: Worker, request: Request, deadline: float | None, fault: Fault) -> Reply:
        before = self._state(request.client)
        envelope = self._answer(worker, request, before, deadline, fault)
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
    """Give every rank the reply of rank 0, which all of them judge.

    A trained model is equal on all ranks already. Its losses are those of a rank's own share of the batches; generators
    without a phase, counts and cluster centres are computed by each rank, and may differ in the last digit. That would
    lead ranks to accept different clients, or into phases of different length.
    """
    if world_size() == 1:
        return reply
    if isinstance(reply, TrainReply):
        metrics, judgement = said_by_rank_0((reply.metrics, reply.judgement))
        return replace(reply, metrics=metrics, judgement=judgement)
    kind, said = said_by_rank_0((type(reply), encode(reply)))
    return decode(said, kind)
