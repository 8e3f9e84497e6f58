"""Networks whose head is not one linear layer with a bias: everywhere where the method can do without it."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from mosaic.errors import MosaicError
from mosaic.model_pool import ClientModels
from mosaic.nets import Blueprint, Classifier
from mosaic.nets.classifier import ImageShape
from mosaic.teachers import Fusion
from tests.cases import for_each
from tests.cli.test_main import refusal
from tests.small_runs import LinearNet, dry_run, fit_arguments


class NoBias(Classifier):
    """A linear head without bias."""

    def __init__(self, image_shape: ImageShape, num_classes: int) -> None:
        super().__init__(image_shape, num_classes)
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU())
        self.head = nn.Linear(16, num_classes, bias=False)


class TwoLayers(NoBias):
    """A head of two layers, beside weights whose version the network asks for when it is loaded."""

    def __init__(self, image_shape: ImageShape, num_classes: int) -> None:
        super().__init__(image_shape, num_classes)
        self.head = nn.Sequential(nn.Linear(16, 8), nn.ReLU(), Versioned(), nn.Linear(8, num_classes))  # type: ignore[assignment]


class Versioned(nn.Identity):
    """Refuses weights of which nobody says how old they are, as torchvision's mnasnet does."""

    _version = 2

    def _load_from_state_dict(self, state: object, prefix: str, metadata: dict[str, int], *rest: object) -> None:
        assert metadata.get("version") == 2
        super()._load_from_state_dict(state, prefix, metadata, *rest)  # type: ignore[arg-type]


class Maps(NoBias):
    """Features that are no vectors; the head flattens them."""

    def __init__(self, image_shape: ImageShape, num_classes: int) -> None:
        super().__init__(image_shape, num_classes)
        self.body, self.head = nn.Conv2d(1, 2, 3), nn.Sequential(nn.Flatten(), nn.Linear(72, num_classes))  # type: ignore[assignment]


class Headless(Classifier):
    """Features and a forward of its own, whose last layer is not called the head."""

    def __init__(self, image_shape: ImageShape, num_classes: int) -> None:
        super().__init__(image_shape, num_classes)
        self.body, self.last = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU()), nn.Linear(16, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.last(self.features(images))
        return logits


@pytest.mark.parametrize(
    ("net", "algorithm", "trained"),
    [
        ("Headless", "Mosaic", {"GenerationTask", "GatingTask", "DistillationTask"}),
        ("TwoLayers", "Mosaic", {"GenerationTask", "GatingTask", "DistillationTask"}),
        pytest.param("NoBias", "Mosaic", {"GenerationTask", "GatingTask", "DistillationTask"}, marks=pytest.mark.slow),
        pytest.param("Maps", "FedAvg", set(), marks=pytest.mark.slow),
        pytest.param("TwoLayers", "DENSE", {"PoolSynthesisTask"}, marks=pytest.mark.slow),
    ],
)
def test_every_phase_runs(net: str, algorithm: str, trained: set[str], tmp_path: Path) -> None:
    arguments = fit_arguments(tmp_path / "run", algorithm, f"--model.net=tests.test_heads.{net}")
    assert dry_run(*arguments) == {"ClassificationTask", *trained}


@for_each(
    ("net", "algorithm", "flags", "said"),
    [
        ("NoBias", "PrototypeHead", [], "a head that is one torch.nn.Linear with a bias, got a linear layer without"),
        ("Headless", "PrototypeHead", [], "a head that is one torch.nn.Linear with a bias, got none: give it one"),
        (
            "TwoLayers",
            "Mosaic",
            ["--algorithm.teacher.heads_only=true"],
            "algorithm.teacher Fusion needs a head that is one",
        ),
        (
            "Maps",
            "Mosaic",
            [],
            "algorithm.teacher Fusion needs a vector of features for each image, shape (B, F), got (2,",
        ),
        ("Maps", "PrototypeHead", [], "mosaic.algorithms.PrototypeHead needs a vector of features"),
    ],
)
def test_the_rest_is_refused_before_anything_is_written(
    net: str, algorithm: str, flags: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network = f"--model.net=tests.test_heads.{net}"
    line = refusal(capsys, *fit_arguments(tmp_path / "run", algorithm, network, *flags))
    assert "model.net: " in line
    assert said in line
    assert not (tmp_path / "run").exists()


def test_features_are_not_needed_where_no_prototypes_are_asked_for() -> None:
    """Clients that cannot run the global network are not: the default teacher then does without."""
    blueprint = Blueprint(Maps, (1, 8, 8), 3, (0.5,), (0.5,))
    unable = ClientModels(models=["global", LinearNet], evaluate_whole=False)
    Fusion().check_network(unable.pool(blueprint, 2, seed=0))
    for models in (None, ["global", LinearNet]):
        with pytest.raises(MosaicError, match=r"needs a vector of features .* or choose mosaic\.teachers\.Prior"):
            Fusion().check_network(ClientModels(models=models).pool(blueprint, 2, seed=0))


def test_weights_that_lost_their_version_get_it_back(tmp_path: Path) -> None:
    from mosaic.nets.classifier import versioned

    net, images = TwoLayers((1, 8, 8), 3), torch.rand(2, 1, 8, 8)
    plain: dict[str, Tensor] = dict(net.state_dict())
    other = TwoLayers((1, 8, 8), 3)
    other.load_state_dict(versioned(other, plain))
    assert torch.equal(other(images), net(images))
    with pytest.raises(AssertionError):
        other.load_state_dict(plain)
