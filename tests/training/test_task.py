import torch
from torch import nn

from mosaic.training.task import Task


class Holder(Task):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Conv2d(2, 2, 3)


def test_a_task_stays_where_it_is_and_moves_where_it_is_not() -> None:
    task = Holder()
    here = task.net.weight.data_ptr()
    task.to(torch.device("cpu"))
    assert task.cpu().net.weight.data_ptr() == here
    task.to(memory_format=torch.channels_last)
    assert task.net.weight.is_contiguous(memory_format=torch.channels_last)
    assert (task.to(torch.device("meta")).net.weight.device.type, task.device.type) == ("meta", "meta")
