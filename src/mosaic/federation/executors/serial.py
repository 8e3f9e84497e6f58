"""One client after another, in this process."""

from collections.abc import Iterable, Iterator

import torch

from mosaic.batches import world_size
from mosaic.client.worker import Worker
from mosaic.codec import decode, encode
from mosaic.errors import MosaicError
from mosaic.federation.executors.base import ClientExecutor, check_threads
from mosaic.federation.launch import launched_world
from mosaic.messages import GeneratorReply, Reply, Request, TrainReply


def agree(reply: Reply) -> Reply:
    """Give every rank the reply of rank 0.

    What comes out of a training phase is equal on all ranks already; counts and cluster centres are computed by each,
    and on GPUs they may differ in the last digit, which would lead ranks into phases of different length.
    """
    if world_size() == 1 or isinstance(reply, TrainReply | GeneratorReply):
        return reply
    carrier = [encode(reply)]
    torch.distributed.broadcast_object_list(carrier, src=0)
    answer: Reply = decode(carrier[0], type(reply))
    return answer


class SerialExecutor(ClientExecutor):
    """Answers requests in this process; with ``trainer.devices`` above one, every phase is data-parallel.

    Args:
        threads: CPU threads of the process, for clients and server; PyTorch's own choice when not given. Small nets
            are fastest with one. Results are bit-identical only for equal threads.
    """

    def __init__(self, threads: int | None = None) -> None:
        super().__init__()
        check_threads(threads)
        self.threads = threads
        self._threads_before = torch.get_num_threads()
        self._worker: Worker | None = None

    def start(self, worker: Worker) -> None:
        """Take the worker and set the threads.

        Raises:
            MosaicError: several processes were launched, and none knows of the others.
        """
        world = launched_world()
        if world is not None and worker.phases.processes == 1:
            raise MosaicError(
                f"executor: {world.size} processes were launched, and with SerialExecutor and one device each of them "
                "would run the whole federation: share clients out with --executor RanksExecutor, or train every phase "
                "on all of them with --trainer.devices and --trainer.strategy ddp"
            )
        self._worker = worker
        if self.threads is not None:
            torch.set_num_threads(self.threads)

    def map(self, requests: Iterable[Request]) -> Iterator[Reply]:
        """Answer each request when its reply is asked for."""
        assert self._worker is not None, "start() comes before map()"
        for request in requests:
            yield agree(self._handle(self._worker, request))

    def close(self) -> None:
        """Forget the worker, and leave the threads as they were."""
        self._worker = None
        torch.set_num_threads(self._threads_before)
