"""Train the classifiers of several clients in lockstep, as one stack of networks."""

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.func import vmap
from torch.optim import Optimizer

from mosaic.messages import StateDict
from mosaic.nets.classifier import Classifier
from mosaic.nets.stack import Stack
from mosaic.tasks.classification import LocalLoss, OptimizerFactory, View, with_rate
from mosaic.tasks.stacked import StackedTask
from mosaic.training.manual import LossTask

_ADVICE = "which a network in a stack cannot answer: use another executor"


class StackedClassificationTask(StackedTask, LossTask):
    """Local training of K clients with one architecture; each learns what it would learn alone, up to rounding.

    All share a forward pass (``torch.func.vmap``), every client has its own loss, and the optimiser sees stacked
    parameters: one that :func:`takes_numbers_singly`, such as SGD or Adam, treats each client as if it were alone.

    Args:
        nets: the classifiers, which differ in nothing but their weights.
        losses: the local objective of each client.
        optimizer: makes the optimiser.
        learning_rate: one for all; replaces the optimiser's own rate.
        views: each maps a client's stored images to pixels; a single one does so for all clients at once.
        same_loss: whether the losses are one function of logits and labels, computed for all clients at once.
        steps: of each client; the weights of a client that needs fewer than the others are kept when it is done.
    """

    def __init__(
        self,
        nets: Sequence[Classifier],
        losses: Sequence[LocalLoss],
        optimizer: OptimizerFactory,
        learning_rate: float,
        views: Sequence[View],
        steps: Sequence[int],
        same_loss: bool = False,
    ) -> None:
        super().__init__()
        self.stack = Stack(nets)
        self._losses, self._optimizer, self._learning_rate, self._views = losses, optimizer, learning_rate, views
        self._steps, self._taken, self._same_loss = list(steps), 0, same_loss
        self._finished: dict[int, StateDict] = {}

    def captured_networks(self) -> Iterable[nn.Module]:
        """Return the stack, whose step launches as many kernels as that of a single network."""
        return [self.stack]

    def loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Return the sum of the clients' losses, for images ``(K, B, channels, H, W)`` and labels ``(K, B)``."""
        images, labels = batch
        if len(self._views) == 1:
            pixels = self._views[0](images)
        else:
            pixels = torch.stack([view(own) for view, own in zip(self._views, images, strict=True)])
        losses = self._losses_of(self.stack(pixels), pixels, labels)
        self.record("loss", losses)
        return losses.sum()

    def _losses_of(self, logits: Tensor, pixels: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of every client, shape ``(K,)``."""

        def loss_of(k: int, answers: Tensor, shown: Tensor, true: Tensor) -> Tensor:
            return self._losses[k](cast(Classifier, _Member(answers, shown, self.stack, k)), shown, true)

        if self._same_loss:
            losses: Tensor = vmap(partial(loss_of, 0))(logits, pixels, labels)
            return losses
        return torch.stack([loss_of(k, *each) for k, each in enumerate(zip(logits, pixels, labels, strict=True))])

    def after_step(self) -> None:
        """Keep the weights of clients that have taken their last step."""
        self._taken += 1
        for k, steps in enumerate(self._steps):
            if steps == self._taken:
                self._finished[k] = self.stack.state_of(k)

    def configure_optimizers(self) -> Optimizer:
        """Return the optimiser of the stack, with the given learning rate."""
        return with_rate(self._optimizer(self.parameters()), self._learning_rate)

    def trained(self, k: int) -> StateDict:
        """Return the weights of client k after its last step."""
        return self._finished[k]


def takes_numbers_singly(optimizer: OptimizerFactory, shapes: Sequence[torch.Size]) -> bool:
    """Whether an optimiser moves networks in a stack as it moves each alone; one that looks at whole tensors does not.

    Args:
        optimizer: makes it; it is tried for two steps on random parameters and gradients. One that cannot take these
            is left to the lockstep itself.
        shapes: of the parameters of a network.
    """
    random = torch.Generator().manual_seed(0)
    with torch.random.fork_rng([]):
        draw = partial(torch.randn, generator=random, dtype=torch.float64)  # in which a decay of 1e-5 shows
        alone = [[nn.Parameter(draw(shape)) for shape in dict.fromkeys(shapes)] for _ in range(2)]
        together = [nn.Parameter(torch.stack(pair).detach()) for pair in zip(*alone, strict=True)]
        try:
            optimizers = [with_rate(optimizer(parameters), 0.1) for parameters in (*alone, together)]
            for _ in range(2):
                for first, second, both in zip(*alone, together, strict=True):
                    both.grad = draw(both.shape)
                    first.grad, second.grad = (own.clone() for own in both.grad)
                for each in optimizers:
                    each.step()
        except Exception:  # as of one that is made for GPUs alone
            return True
        moved = zip(*alone, together, strict=True)
        return all(torch.allclose(torch.stack([first, second]), both, 1e-9, 1e-9) for first, second, both in moved)


class _Member:
    """Stands for one network of a stack, whose logits for this batch are known."""

    def __init__(self, logits: Tensor, pixels: Tensor, stack: Stack, k: int) -> None:
        self._logits, self._pixels, self._stack, self._k, self._answered = logits, pixels, stack, k, False

    def __call__(self, images: Tensor) -> Tensor:
        if images is not self._pixels:
            raise RuntimeError(f"a local objective asked its network about other images than its batch, {_ADVICE}")
        if self._answered:  # with dropout it would answer something else, and BatchNorm counts every pass
            raise RuntimeError(f"a local objective asked its network twice about its batch, {_ADVICE}")
        self._answered = True
        return self._logits

    def parameters(self) -> Iterator[Tensor]:
        """Yield this network's parameters."""
        return iter(self._stack.parameters_of(self._k))

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"a local objective asked for {name} of its network, {_ADVICE}")
