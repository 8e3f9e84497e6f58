"""Captured passes give the numbers of ordinary ones, whoever's weights are in them.

Without a GPU, graphs are pretended: kernels are noted with the memory that they use, and run again on it.
"""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from mosaic.batches import ShuffledBatches, StackedBatches
from mosaic.errors import MosaicError
from mosaic.nets import Classifier, SmallCNN
from mosaic.nets.blueprint import Blueprint
from mosaic.nets.inference import to_pixels
from mosaic.tasks.classification import ClassificationTask, LocalLoss, OptimizerFactory
from mosaic.tasks.distillation import DistillationSettings, DistillationTask, LabelledBatch
from mosaic.tasks.stacked_classification import StackedClassificationTask
from mosaic.training import cuda_graphs
from mosaic.training.phases import PhaseRunner

MOMENTUM = partial(SGD, lr=0.1, momentum=0.9)
SHAPE, CLASSES = (1, 8, 8), 3
CPU = {"accelerator": "cpu", "devices": 1}
GPU = {"accelerator": "gpu", "devices": 1}
TOLERANCE = 1e-4 if torch.cuda.is_available() else 0.0
"""Of what was trained with and without graphs; some kernels of a GPU add up in any order."""


class Dropping(SmallCNN):
    """Leaves out a share of the features, by PyTorch's own generator."""

    def features(self, images: Tensor) -> Tensor:
        return nn.functional.dropout(super().features(images), 0.5, self.training)


class Tape(TorchDispatchMode):
    """Notes kernels with the memory that they read and write, and runs them again on it."""

    def __init__(self) -> None:
        super().__init__()
        self.kernels: list[tuple[Any, Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = tree_map_only(Tensor, lambda tensor: tensor.detach(), (args, kwargs or {}))
        found = func(*args, **(kwargs or {}))
        if not func.is_view and func is not torch.ops.aten.detach.default:
            self.kernels.append((func, given, tree_map_only(Tensor, lambda tensor: tensor.detach(), found)))
        return found

    @torch.no_grad()
    def replay(self) -> None:
        for func, (args, kwargs), places in self.kernels:
            for new, place in zip(tree_leaves(func(*args, **kwargs)), tree_leaves(places), strict=True):
                if isinstance(new, Tensor) and new.data_ptr() != place.data_ptr():
                    place.copy_(new)


class Captures:
    """Counts what is captured and replayed; without a GPU, captures on a tape."""

    def __init__(self) -> None:
        self.captured = self.replayed = 0
        self._capture: Any = cuda_graphs.capture if torch.cuda.is_available() else self._on_tape

    def capture(self, run: Callable[[], Any], pool: Any) -> tuple[Callable[[], None], Any]:
        replay, results = self._capture(run, pool)
        self.captured += 1

        def counted() -> None:
            self.replayed += 1
            replay()

        return counted, results

    @staticmethod
    def _on_tape(run: Callable[[], Any], pool: Any) -> tuple[Callable[[], None], Any]:
        with Tape() as tape:
            results = run()
        return tape.replay, results


def warm_up_here(run: Callable[[], Any]) -> None:
    for _ in range(3):
        run()


@pytest.fixture
def captures(monkeypatch: pytest.MonkeyPatch) -> Captures:
    """Make CPUs have graphs, as far as anybody can tell."""
    pretended = Captures()
    monkeypatch.setattr(cuda_graphs, "capture", pretended.capture)
    if not torch.cuda.is_available():
        monkeypatch.setattr(cuda_graphs, "DEVICES", ("cpu",))
        monkeypatch.setattr(cuda_graphs, "memory_pool", lambda: None)
        monkeypatch.setattr(cuda_graphs, "warm_up", warm_up_here)
    return pretended


def cross_entropy(net: Classifier, images: Tensor, labels: Tensor) -> Tensor:
    return nn.functional.cross_entropy(net(images), labels)


def net_of(seed: int, kind: type[SmallCNN] = SmallCNN) -> SmallCNN:
    torch.manual_seed(seed)
    return kind(SHAPE, CLASSES, width=4)


def train(
    phases: PhaseRunner,
    net: Classifier,
    steps: int = 6,
    size: int = 8,
    loss: LocalLoss = cross_entropy,
    optimizer: OptimizerFactory = MOMENTUM,
) -> Tensor:
    """Train a classifier and return its losses."""
    random = torch.Generator().manual_seed(0)
    images = torch.randint(256, (40, *SHAPE), generator=random, dtype=torch.uint8)
    labels = torch.randint(CLASSES, (40,), generator=random)
    task = ClassificationTask(net, loss, optimizer, 0.1, to_pixels)
    return phases.run(task, ShuffledBatches(images, labels, batch_size=size, steps=steps, seed=1), seed=2)["loss"]


def assert_same(ours: nn.Module, theirs: nn.Module) -> None:
    for name, tensor in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], tensor, rtol=TOLERANCE, atol=TOLERANCE)


def template() -> dict[str, object]:
    return GPU if torch.cuda.is_available() else CPU


@pytest.mark.parametrize(
    ("settings", "kind"),
    [
        pytest.param({}, SmallCNN, id="plain"),
        pytest.param({}, Dropping, id="dropout"),
        pytest.param({"precision": "bf16-mixed"}, SmallCNN, id="half precision"),
        pytest.param({"gradient_clip_val": 0.1}, SmallCNN, id="clipped"),
    ],
)
def test_captured_phases_of_several_clients_end_as_others_do(
    captures: Captures, settings: dict[str, object], kind: type[SmallCNN]
) -> None:
    """The second client moves into what was captured for the first, which keeps its own weights and statistics."""
    graphs, plain = (PhaseRunner({**template(), **settings}, cuda_graphs=on) for on in (True, False))
    for seed in range(3):
        ours, theirs = net_of(seed, kind), net_of(seed, kind)
        losses = train(graphs, ours), train(plain, theirs)
        if not (kind is Dropping and torch.cuda.is_available()):
            torch.testing.assert_close(*losses)
            assert_same(ours, theirs)
        if seed == 0:
            first, then = ours, {name: tensor.clone() for name, tensor in ours.state_dict().items()}
    assert all(torch.equal(tensor, then[name]) for name, tensor in first.state_dict().items())
    assert "forward" not in vars(first)
    assert (captures.captured, captures.replayed) == (2, 2 * 18)


def test_a_student_is_captured_too(captures: Captures) -> None:
    random = torch.Generator().manual_seed(0)
    images, answers = torch.rand(40, *SHAPE, generator=random), torch.randn(40, CLASSES, generator=random)

    class Labelled(ShuffledBatches):
        def __iter__(self):  # type: ignore[no-untyped-def]
            return (LabelledBatch(*batch) for batch in super().__iter__())

    students = []
    for on in (True, False):
        task = DistillationTask(net_of(0), DistillationSettings(freeze_statistics=True))
        PhaseRunner(template(), cuda_graphs=on).run(
            task, Labelled(images, answers, batch_size=8, steps=5, seed=0), seed=0
        )
        students.append(task.trained_student())
    assert_same(*students)


def two_passes(net: Classifier, images: Tensor, labels: Tensor) -> Tensor:
    """A loss with two passes before its gradient, of which the second is of other images."""
    return nn.functional.cross_entropy(net(images) + net(1 - images), labels)


def two_sizes(net: Classifier, images: Tensor, labels: Tensor) -> Tensor:
    return cross_entropy(net, images[:3], labels[:3]) + cross_entropy(net, images[3:], labels[3:])


def with_a_look(net: Classifier, images: Tensor, labels: Tensor) -> Tensor:
    """A loss that also asks without wanting a gradient."""
    with torch.no_grad():
        aim = net(images).softmax(-1)
    return cross_entropy(net, images, labels) + nn.functional.mse_loss(net.head(net.features(images)), aim)


def of_a_copy(net: Classifier, images: Tensor, labels: Tensor) -> Tensor:
    return cross_entropy(net, images, labels) + copy.deepcopy(net)(images).detach().mean()


def of_other_weights(net: Classifier, images: Tensor, labels: Tensor) -> Tensor:
    halved = {name: weight / 2 for name, weight in net.named_parameters()}
    return nn.functional.cross_entropy(torch.func.functional_call(net, halved, images), labels)


def in_another_mode_now_and_then(net: Classifier, images: Tensor, labels: Tensor) -> Tensor:
    return cross_entropy(net.train(bool(labels[0] != 0)), images, labels)


def of_features_that_a_hook_keeps(net: Classifier, images: Tensor, labels: Tensor) -> Tensor:
    kept: list[Tensor] = []
    handle = net.body.register_forward_hook(partial(keep, kept))
    loss = cross_entropy(net, images, labels) + kept[-1].pow(2).mean()
    handle.remove()
    return loss


def keep(kept: list[Tensor], module: nn.Module, inputs: object, output: Tensor) -> None:
    kept.append(output)


LOSSES = [
    *(two_passes, two_sizes, with_a_look, of_a_copy, of_other_weights),
    *(in_another_mode_now_and_then, of_features_that_a_hook_keeps),
]


@pytest.mark.parametrize("loss", LOSSES)
def test_a_loss_may_use_the_network_as_it_likes(captures: Captures, loss: LocalLoss) -> None:
    graphs, plain = (PhaseRunner(template(), cuda_graphs=on) for on in (True, False))
    for seed in range(2):
        ours, theirs = net_of(seed), net_of(seed)
        train(graphs, ours, loss=loss)
        train(plain, theirs, loss=loss)
        assert_same(ours, theirs)


def test_a_pass_whose_result_nobody_uses_stops_no_replay(captures: Captures) -> None:
    def loss(net: Classifier, images: Tensor, labels: Tensor) -> Tensor:
        net(images)
        return cross_entropy(net, images, labels)

    train(PhaseRunner(template(), cuda_graphs=True), net_of(0), loss=loss)
    assert captures.replayed == 3 * 6


def test_a_second_gradient_of_one_pass_is_refused(captures: Captures) -> None:
    def loss(net: Classifier, images: Tensor, labels: Tensor) -> Tensor:
        found = cross_entropy(net, images, labels)
        slopes = torch.autograd.grad(found, list(net.parameters()), retain_graph=True)
        return found * slopes[0].norm()

    with pytest.raises(MosaicError, match="got a second: leave"):
        train(PhaseRunner(template(), cuda_graphs=True), net_of(0), loss=loss)


class Remembering(SGD):
    """Keeps the gradient tensors of the step before, and adds to them instead of making new ones."""

    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for weight in group["params"]:
                gradient, before = weight.grad, self.state[weight].get("before")
                self.state[weight]["before"] = gradient
                if gradient is not None and before is not None:
                    weight.grad = 2 * gradient - before
        super().step()

    def zero_grad(self, set_to_none: bool = True) -> None:
        super().zero_grad(set_to_none=False)


ACCUMULATES = {
    "class_path": "lightning.pytorch.callbacks.GradientAccumulationScheduler",
    "init_args": {"scheduling": {0: 2}},
}


@pytest.mark.parametrize(
    ("optimizer", "settings"),
    [
        (partial(Remembering, lr=0.1), {}),
        (partial(SGD, lr=0.1), {"callbacks": [ACCUMULATES]}),
        (partial(torch.optim.LBFGS, max_iter=3), {"callbacks": [{"class_path": "lightning.pytorch.Callback"}]}),
    ],
)
def test_gradients_are_the_optimisers_own(
    captures: Captures, optimizer: Callable[..., Optimizer], settings: dict[str, object]
) -> None:
    ours, theirs = net_of(0), net_of(0)
    train(PhaseRunner({**template(), **settings}, cuda_graphs=True), ours, optimizer=optimizer)
    train(PhaseRunner({**template(), **settings}), theirs, optimizer=optimizer)
    assert captures.captured == 2
    assert_same(ours, theirs)


class Shaped(SmallCNN):
    """A network whose kernels depend on what stands in an attribute of some kind."""

    def __init__(self, scale: Any) -> None:
        super().__init__(SHAPE, CLASSES, width=4)
        self.scale = scale

    def features(self, images: Tensor) -> Tensor:
        return super().features(images) * torch.as_tensor(self.scale, device=images.device)[0]


@pytest.mark.parametrize("kind", [list, tuple, torch.tensor])
def test_networks_that_differ_in_a_constant_do_not_share(captures: Captures, kind: Callable[[Any], Any]) -> None:
    graphs, plain = (PhaseRunner(template(), cuda_graphs=on) for on in (True, False))
    for scale in (1.25001, 1.25004):
        torch.manual_seed(0)
        ours = Shaped(kind([scale]))
        theirs = copy.deepcopy(ours)
        train(graphs, ours)
        train(plain, theirs)
        assert_same(ours, theirs)


class Counting(SmallCNN):
    """Changes an attribute in every pass."""

    passes = 0

    def features(self, images: Tensor) -> Tensor:
        self.passes += 1
        return super().features(images) / self.passes


def test_a_network_that_changes_itself_is_refused(captures: Captures) -> None:
    with pytest.raises(MosaicError, match="since its forward pass changes attributes of the network"):
        train(PhaseRunner(template(), cuda_graphs=True), net_of(0, Counting))


def test_what_changes_the_kernels_is_captured_anew(captures: Captures) -> None:
    """Another batch size, another constant of a network, another frozen weight."""
    phases = PhaseRunner(template(), cuda_graphs=True)
    frozen, other = net_of(1), net_of(2)
    frozen.head.bias.requires_grad_(False)
    other.normalize.scale = 2.0  # type: ignore[assignment]
    for net, size in ((net_of(0), 8), (net_of(1), 4), (frozen, 8), (other, 8), (net_of(3), 8)):
        train(phases, net, steps=2, size=size)
    assert phases._graphs is not None
    assert len(phases._graphs._passes) == 4


def test_where_there_is_no_room_left_passes_run_as_ever(captures: Captures, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_graphs, "KEPT", 2)
    phases = PhaseRunner(template(), cuda_graphs=True)
    for size in (4, 5, 6, 4):
        train(phases, net_of(0), steps=1, size=size)
    assert (captures.captured, captures.replayed) == (4, 6)


def test_networks_with_hooks_run_as_ever(captures: Captures) -> None:
    net, seen = net_of(0), []
    net.head.register_forward_hook(lambda *_: seen.append(1))
    train(PhaseRunner(template(), cuda_graphs=True), net, steps=4)
    assert len(seen) == 4


def test_a_network_that_looks_at_values_is_refused(captures: Captures, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("CUDA error: operation not permitted when stream is capturing\nCompile with ...")

    monkeypatch.setattr(cuda_graphs._CapturedPass, "_capture", fail)
    with pytest.raises(
        MosaicError, match=r"^model.cuda_graphs: SmallCNN cannot be captured .* leave model.cuda_graphs out"
    ):
        train(PhaseRunner(template(), cuda_graphs=True), net_of(0))


def test_compiled_and_captured_is_refused() -> None:
    with pytest.raises(MosaicError, match="set one of them"):
        PhaseRunner(CPU, compile=True, cuda_graphs=True)


@pytest.mark.filterwarnings("ignore:GPU available but not used")
def test_cpus_have_no_graphs() -> None:
    ours, theirs = net_of(0), net_of(0)
    phases = PhaseRunner(CPU, cuda_graphs=True)
    train(phases, ours)
    train(PhaseRunner(CPU), theirs)
    assert all(map(torch.equal, ours.state_dict().values(), theirs.state_dict().values()))
    assert phases._graphs is not None
    assert not phases._graphs._passes


class Frozen(SmallCNN):
    """Holds a layer where only Python sees it, and itself."""

    def __init__(self, loops: bool) -> None:
        super().__init__(SHAPE, CLASSES, width=4)
        self.hidden = [nn.Linear(CLASSES, CLASSES), *([self] if loops else [])]

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.hidden[0](super().forward(images))
        return logits


@pytest.mark.parametrize("loops", [False, True])
def test_networks_with_weights_that_nobody_finds_run_as_ever(captures: Captures, loops: bool) -> None:
    graphs = PhaseRunner(template(), cuda_graphs=True)
    for _ in range(2):
        ours = Frozen(loops)
        theirs = copy.deepcopy(ours)
        train(graphs, ours)
        train(PhaseRunner(template()), theirs)
        assert_same(ours, theirs)
    assert captures.captured == 0


def test_narrow_networks_are_captured_once(captures: Captures) -> None:
    """Their hooks divide what layers say; another width divides by another number."""
    blueprint = Blueprint(partial(SmallCNN, width=8), SHAPE, CLASSES, (0.0,), (1.0,))
    phases = PhaseRunner(template(), cuda_graphs=True)
    for ratio in (0.5, 0.5, 0.25):
        narrow = blueprint.scaled(ratio)
        ours, theirs = (narrow.build(narrow.initial(seed=0)) for _ in range(2))
        train(phases, ours)
        train(PhaseRunner(template()), theirs)
        assert_same(ours, theirs)
    assert phases._graphs is not None
    assert len(phases._graphs._passes) == 2


def one_size_or_another(net: Classifier, images: Tensor, labels: Tensor) -> Tensor:
    size = 3 if labels[0] == 0 else 5
    return cross_entropy(net, images[:size], labels[:size])


@pytest.mark.parametrize("kept", [1, 2])
def test_a_client_with_batches_of_two_sizes_keeps_its_weights(
    captures: Captures, monkeypatch: pytest.MonkeyPatch, kept: int
) -> None:
    """Also where there is no room for the second size."""
    monkeypatch.setattr(cuda_graphs, "KEPT", kept)
    graphs, ours, theirs = PhaseRunner(template(), cuda_graphs=True), net_of(0), net_of(0)
    train(graphs, ours, loss=one_size_or_another)
    train(PhaseRunner(template()), theirs, loss=one_size_or_another)
    train(graphs, net_of(1), loss=one_size_or_another)
    assert captures.captured == 2 * kept
    assert_same(ours, theirs)


def train_side_by_side(phases: PhaseRunner, nets: list[SmallCNN], loss: LocalLoss, same_loss: bool) -> None:
    """Train classifiers in lockstep."""
    random = torch.Generator().manual_seed(0)
    images = torch.randint(256, (40, *SHAPE), generator=random, dtype=torch.uint8)
    labels = torch.randint(CLASSES, (40,), generator=random)
    batches = [ShuffledBatches(images, labels, batch_size=8, steps=4 + k, seed=k) for k, _ in enumerate(nets)]
    steps = list(map(len, batches))
    task = StackedClassificationTask(nets, [loss] * len(nets), MOMENTUM, 0.1, [to_pixels], steps, same_loss)
    phases.run(task, StackedBatches(images, labels, batches), seed=2)
    for k, net in enumerate(nets):
        net.load_state_dict(task.trained(k))


def close_to_the_start(net: Classifier, images: Tensor, labels: Tensor) -> Tensor:
    """A loss that needs the weights too, as FedProx does."""
    return cross_entropy(net, images, labels) + 0.1 * sum(weight.square().sum() for weight in net.parameters())


@pytest.mark.parametrize(
    ("kind", "loss", "same_loss"),
    [
        pytest.param(SmallCNN, cross_entropy, True, id="plain"),
        pytest.param(Dropping, cross_entropy, True, id="dropout"),
        pytest.param(SmallCNN, close_to_the_start, False, id="weights"),
    ],
)
def test_a_stack_is_captured_once(captures: Captures, kind: type[SmallCNN], loss: LocalLoss, same_loss: bool) -> None:
    """Clients side by side keep their own weights after the next ones have moved in; one has fewer steps."""
    graphs, plain = PhaseRunner(template(), cuda_graphs=True), PhaseRunner(template())
    pairs = []
    for first in (0, 2):
        ours, theirs = ([net_of(seed, kind) for seed in (first, first + 1)] for _ in range(2))
        train_side_by_side(graphs, ours, loss, same_loss)
        train_side_by_side(plain, theirs, loss, same_loss)
        pairs += zip(ours, theirs, strict=True)
    for mine, other in pairs:
        if not (kind is Dropping and torch.cuda.is_available()):
            assert_same(mine, other)
    assert (captures.captured, captures.replayed) == (2, 2 * 2 * 5)


def test_stacks_of_other_networks_do_not_share(captures: Captures) -> None:
    """Networks that differ in a number that no weight shows."""
    graphs = PhaseRunner(template(), cuda_graphs=True)
    for scale in (0.5, 1.5):
        ours, theirs = ([Shaped((scale,)) for _ in range(2)] for _ in range(2))
        for mine, other in zip(ours, theirs, strict=True):
            other.load_state_dict(mine.state_dict())
        train_side_by_side(graphs, ours, cross_entropy, True)
        train_side_by_side(PhaseRunner(template()), theirs, cross_entropy, True)
        for mine, other in zip(ours, theirs, strict=True):
            assert_same(mine, other)
    assert captures.captured == 4
