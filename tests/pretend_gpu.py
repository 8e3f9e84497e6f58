"""A GPU that is not there: tensors that know their device and hold no values, on which steps are rehearsed."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from mosaic.training.blocks import SizedBatches
from mosaic.training.manual import ManualTask
from mosaic.training.phases import PhaseRunner
from mosaic.training.task import Task

GPU = torch.device("cuda", 0)
ALONE = SimpleNamespace(strategy=SimpleNamespace(reduce=lambda tensor, **_: tensor), global_rank=0)
"""A Trainer without company."""


class Copies(TorchDispatchMode):
    """Notes each copy from the CPU to a GPU that waits, and each copy back.

    Where something is chosen on the CPU, which has the values at hand, all of it counts as chosen.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waiting: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.ops.aten.nonzero.default and args[0].device.type == "cpu":
            return torch.arange(args[0].numel()).view(-1, 1).expand(-1, args[0].dim())
        source = target = None
        if func is torch.ops.aten._to_copy.default:
            source, target = args[0].device.type, torch.device(kwargs.get("device") or args[0].device).type
            waits = not kwargs.get("non_blocking")
        elif func is torch.ops.aten.copy_.default:
            source, target = args[1].device.type, args[0].device.type
            waits = not (args[2] if len(args) > 2 else kwargs.get("non_blocking"))
        if source != target and (waits or target == "cpu"):
            self.waiting[f"{source} to {target}"] += 1
        return func(*args, **kwargs)


@contextmanager
def pretend_gpu() -> Iterator[Copies]:
    """Inside, ``cuda:0`` exists: mixing devices and asking for a value raise; networks come back as they were.

    Nothing is descended: a backward pass wants a real device. Gradients that a step asks for itself are zeros.
    """
    torch.ones(1, requires_grad=True).backward()  # the first one counts devices: with one, no test could fork any more
    seen: dict[nn.Module, tuple[dict[str, Any], dict[str, Any]]] = {}
    apply = nn.Module._apply

    def put_back(module: nn.Module) -> None:
        parameters, buffers = seen.pop(module)
        module._parameters.update(parameters)
        module._buffers.update(buffers)

    def move(module: nn.Module, *args: Any, **kwargs: Any) -> nn.Module:
        """Move a network there once; fake parameters cannot be moved again, so that from there it can only go back."""
        if module in seen:
            for part in module.modules():
                put_back(part)
            return module
        seen[module] = dict(module._parameters), dict(module._buffers)
        return apply(module, *args, **kwargs)

    def no_gradient(outputs: Any, inputs: Any, **_: Any) -> tuple[Tensor, ...]:
        return tuple(torch.zeros_like(one) for one in ([inputs] if isinstance(inputs, Tensor) else inputs))

    overwrites = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nn.Module, "_apply", move)
        patch.setattr(torch.autograd, "grad", no_gradient)
        patch.setattr(ManualTask, "descend", lambda *_: None)
        try:
            with FakeTensorMode(allow_non_fake_inputs=True), Copies() as copies:
                yield copies
        finally:
            torch.__future__.set_overwrite_module_params_on_conversion(overwrites)
            for module in list(seen):
                put_back(module)


def can_pretend() -> bool:
    """Whether this PyTorch moves fake tensors to a GPU without one; 2.9 still looks for a driver."""
    net = nn.Linear(1, 1)
    try:
        with pretend_gpu():
            return net.to(GPU).weight.device == GPU
    except RuntimeError:
        return False


def sent(batch: Any) -> Any:
    """A batch on the GPU, of whatever it is made."""
    if isinstance(batch, Tensor):
        return batch.to(GPU, non_blocking=True)
    if hasattr(batch, "_fields"):
        return type(batch)(*map(sent, batch))
    return type(batch)(map(sent, batch)) if isinstance(batch, tuple | list) else batch


class NoOptimizer:
    """Stands for an optimiser that is never asked to step."""

    def __init__(self) -> None:
        self.state: dict[Any, Any] = {}
        self.param_groups: list[dict[str, Any]] = [{"lr": 0.0}]

    def zero_grad(self) -> None:
        pass

    def step(self) -> None:
        pass


def rehearse(task: Task, batch: Any) -> Counter[str]:
    """Take one training step of a task on the GPU that is not there; return the copies that waited inside the step.

    Raises:
        FakeTensorDeviceMismatchError: two devices met.
        DataDependentOutputException: somebody asked for a value.
    """
    before = dict(vars(task))
    try:
        with pretend_gpu() as copies, pytest.MonkeyPatch.context() as patch:
            task.to(GPU)
            patch.setattr(type(task), "device", GPU)
            patch.setattr(type(task), "trainer", ALONE)
            patch.setattr(task, "transfer_batch_to_device", lambda one, *_: sent(one))
            several = isinstance(task.configure_optimizers(), Sequence)
            patch.setattr(task, "optimizers", lambda: [NoOptimizer(), NoOptimizer()] if several else NoOptimizer())
            task._curves = {}
            task.on_fit_start()
            task.on_train_epoch_start()
            copies.waiting.clear()
            task.training_step([batch] if getattr(task, "in_blocks", False) else sent(batch), 0)
            return Counter(copies.waiting)
    finally:
        vars(task).clear()
        vars(task).update(before)


@contextmanager
def rehearsed(found: dict[str, Any]) -> Iterator[None]:
    """Rehearse the last step of every phase inside the block, after it has been trained for real."""
    run = PhaseRunner._run

    def and_rehearse(runner: PhaseRunner, task: Task, batches: SizedBatches, seed: int) -> dict[str, Tensor]:
        curves = run(runner, task, batches, seed)
        name = type(task).__name__
        try:
            waiting = rehearse(task, list(batches)[-1])
        except Exception as error:
            found.setdefault(name, error)
        else:
            found.setdefault(name, waiting)
        return curves

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PhaseRunner, "_run", and_rehearse)
        yield
