"""Captured passes give the numbers of ordinary ones, whoever's weights are in them.

Without a GPU, graphs are pretended: a copy of the network stays where the graphs would look for weights and images, and
is run again where they would be replayed.
"""

import copy
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD

from mosaic.batches import ShuffledBatches
from mosaic.errors import MosaicError
from mosaic.nets import Classifier, SmallCNN
from mosaic.nets.blueprint import Blueprint
from mosaic.nets.inference import to_pixels
from mosaic.tasks.classification import ClassificationTask, LocalLoss
from mosaic.tasks.distillation import DistillationSettings, DistillationTask, LabelledBatch
from mosaic.training import cuda_graphs
from mosaic.training.phases import PhaseRunner

SHAPE, CLASSES = (1, 8, 8), 3
CPU = {"accelerator": "cpu", "devices": 1}
GPU = {"accelerator": "gpu", "devices": 1}
TOLERANCE = 1e-4 if torch.cuda.is_available() else 0.0
"""Of what was trained with and without graphs; some kernels of a GPU add up in any order."""


class Dropping(SmallCNN):
    """Leaves out a share of the features, by PyTorch's own generator."""

    def features(self, images: Tensor) -> Tensor:
        return nn.functional.dropout(super().features(images), 0.5, self.training)


class Captures:
    """Pretends to capture; remembers what it has captured, and counts replays."""

    def __init__(self) -> None:
        self.engines: list[nn.Module] = []
        self.replays = 0

    def capture(self, passes: "cuda_graphs._CapturedPass", guest: "cuda_graphs._Guest") -> None:
        own_forward = vars(guest.network).pop("forward")
        engine = copy.deepcopy(guest.network)
        vars(guest.network)["forward"] = own_forward
        for tensor, weight in zip([*engine.parameters(), *engine.buffers()], passes._weights, strict=True):
            tensor.data = weight
        self.engines.append(engine)
        learning = [parameter for parameter in engine.parameters() if parameter.requires_grad]
        raw = [engine(passes._images) for _ in range(3)][-1]  # as a warm-up: statistics and generators move
        outputs, gradient = raw.detach().clone(), torch.zeros_like(raw)
        gradients = [torch.zeros_like(parameter) for parameter in learning]

        def forward() -> None:
            self.replays += 1
            with torch.enable_grad():
                self.raw = engine(passes._images)
            outputs.copy_(self.raw.detach())

        def backward() -> None:
            for place, found in zip(gradients, torch.autograd.grad(self.raw, learning, gradient), strict=True):
                place.copy_(found)

        passes._outputs, passes._gradient, passes._gradients = outputs, gradient, tuple(gradients)
        passes._replay_forward, passes._replay_backward = forward, backward


@pytest.fixture
def captures(monkeypatch: pytest.MonkeyPatch) -> Captures:
    """Make CPUs have graphs, as far as anybody can tell."""
    pretended = Captures()
    if not torch.cuda.is_available():
        monkeypatch.setattr(cuda_graphs, "DEVICES", ("cpu",))
        monkeypatch.setattr(cuda_graphs._CapturedPass, "_capture", lambda *both: pretended.capture(*both))
    return pretended


def cross_entropy(net: Classifier, images: Tensor, labels: Tensor) -> Tensor:
    return nn.functional.cross_entropy(net(images), labels)


def net_of(seed: int, kind: type[SmallCNN] = SmallCNN) -> SmallCNN:
    torch.manual_seed(seed)
    return kind(SHAPE, CLASSES, width=4)


def train(
    phases: PhaseRunner, net: Classifier, steps: int = 6, size: int = 8, loss: LocalLoss = cross_entropy
) -> Tensor:
    """Train a classifier and return its losses."""
    random = torch.Generator().manual_seed(0)
    images = torch.randint(256, (40, *SHAPE), generator=random, dtype=torch.uint8)
    labels = torch.randint(CLASSES, (40,), generator=random)
    task = ClassificationTask(net, loss, partial(SGD, lr=0.1, momentum=0.9), 0.1, to_pixels)
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
    assert len(captures.engines) == (0 if torch.cuda.is_available() else 1)
    assert captures.replays == (0 if torch.cuda.is_available() else 18)


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


def with_a_look(net: Classifier, images: Tensor, labels: Tensor) -> Tensor:
    """A loss that also asks without wanting a gradient."""
    with torch.no_grad():
        aim = net(images).softmax(-1)
    return cross_entropy(net, images, labels) + nn.functional.mse_loss(net.head(net.features(images)), aim)


@pytest.mark.parametrize("loss", [two_passes, with_a_look])
def test_other_uses_of_the_network_in_a_step_run_as_ever(captures: Captures, loss: LocalLoss) -> None:
    ours, theirs = net_of(0), net_of(0)
    train(PhaseRunner(template(), cuda_graphs=True), ours, loss=loss)
    train(PhaseRunner(template()), theirs, loss=loss)
    assert_same(ours, theirs)


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


def test_few_passes_are_kept(captures: Captures, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_graphs, "KEPT", 2)
    phases = PhaseRunner(template(), cuda_graphs=True)
    for size in (4, 5, 4, 6, 4):
        train(phases, net_of(0), steps=1, size=size)
    assert phases._graphs is not None
    assert [key[1][1][0] for key in phases._graphs._passes] == [6, 4]  # type: ignore[index]


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
