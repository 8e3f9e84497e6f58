from collections import Counter
from fractions import Fraction
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mosaic.errors import MosaicError
from mosaic.model_pool import ClientModels, ModelPool
from mosaic.nets import MLP, Blueprint, FirstChannels, RandomChannels, ResNet18, RollingWindow, SmallCNN, TorchvisionNet
from mosaic.nets.classifier import Classifier, ImageShape
from mosaic.nets.slicing import Slicing, grid
from tests.cases import for_each
from tests.small_runs import LinearNet, SevenLogits, same_models

RULES = pytest.mark.parametrize(
    "rule", [FirstChannels(), RandomChannels(), RollingWindow()], ids=lambda r: type(r).__name__
)
NARROW = partial(SmallCNN, width=2)


class Wordy(LinearNet):
    """A network whose logits are no vector."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images)[:, :, None]


class Torn(LinearNet):
    """A network that returns more than its logits."""

    def forward(self, images: Tensor) -> Any:
        return super().forward(images), images


def pool_of(blueprint: Blueprint, num_clients: int = 5, seed: int = 0, **settings: Any) -> ModelPool:
    return ClientModels(**settings).pool(blueprint, num_clients, seed)


# who runs what


def test_by_default_all_clients_run_the_global_network(blueprint: Blueprint) -> None:
    for pool in (pool_of(blueprint), same_models(blueprint, 5)):
        assert pool.kind == "same"
        assert pool.levels == (1.0,) * 5
        assert all(pool.of(client) is blueprint for client in range(5))
        assert not any(pool.keeps_own(client) for client in range(5))
        assert all(pool.can_run_whole(client) for client in range(5))


def test_levels_are_dealt_out_in_turn(blueprint: Blueprint) -> None:
    assert pool_of(blueprint, levels=[1.0, 0.5, 0.25]).levels == (1.0, 0.5, 0.25, 1.0, 0.5)
    assert pool_of(blueprint, levels=[0.5] * 2 + [1.0] * 3).levels == (0.5, 0.5, 1.0, 1.0, 1.0)


def test_models_are_dealt_out_in_turn(blueprint: Blueprint) -> None:
    pool = pool_of(blueprint, models=["global", NARROW, LinearNet])
    nets = [pool.of(client).build(pool.of(client).initial(0)) for client in range(5)]
    assert [type(net) for net in nets] == [SmallCNN, SmallCNN, LinearNet, SmallCNN, SmallCNN]
    assert [net.width for net in nets if isinstance(net, SmallCNN)] == [4, 2, 4, 2]
    assert [pool.keeps_own(client) for client in range(5)] == [False, True, True, False, True]


def test_models_and_levels_for_nobody_are_told(blueprint: Blueprint, caplog: pytest.LogCaptureFixture) -> None:
    pool_of(blueprint, models=["global"] * 5, levels=None)
    assert caplog.text == ""
    pool_of(blueprint, models=["global"] * 6)
    pool_of(blueprint, levels=[1.0] * 7)
    assert "clients.models: 6 for 5 clients: the last are not used" in caplog.text
    assert "clients.levels: 7 for 5 clients: the last are not used" in caplog.text


@for_each("clients", [1, 6, 10, 13])
@for_each("rho", [0, 1, 2.5, 3, 10])
@for_each("sigma", [0, 1, 2, 4])
def test_a_staircase_of_levels_is_the_methods_formula(
    blueprint: Blueprint, clients: int, rho: float, sigma: int
) -> None:
    levels = ClientModels(rho=rho, sigma=sigma)._levels(clients)
    steps = [min(sigma, Fraction(rho) * client // clients) for client in range(clients)]
    assert list(levels) == [float(Fraction(1, 2) ** int(step)) for step in steps]


def test_a_staircase_follows_the_number_that_was_written_not_its_binary_neighbour() -> None:
    for hundredths, clients in ((116, 29), (29, 100), (57, 100), (305, 61)):
        levels = ClientModels(rho=hundredths / 100, sigma=9)._levels(clients)
        assert list(levels) == [0.5 ** (hundredths * client // (100 * clients)) for client in range(clients)]


def test_staircases_by_hand(blueprint: Blueprint) -> None:
    assert pool_of(blueprint, 6, rho=3.0, sigma=2).levels == (1, 1, 0.5, 0.5, 0.25, 0.25)
    assert pool_of(blueprint, 5, rho=5.0, sigma=2).levels == (1, 0.5, 0.25, 0.25, 0.25)
    assert pool_of(blueprint, 4, rho=2.0, sigma=0).kind == "same"


@for_each(
    ("settings", "kind"),
    [
        ({"levels": [1.0]}, "same"),
        ({"levels": [1.0, 1.0]}, "same"),
        ({"rho": 1.0}, "same"),
        ({"models": ["global"]}, "same"),
        ({"levels": [1.0, 0.5]}, "widths"),
        ({"levels": [0.5]}, "widths"),
        ({"rho": 2.0}, "widths"),
        ({"models": [LinearNet]}, "architectures"),
        ({"models": ["global", NARROW]}, "architectures"),
        ({"models": ["global"] * 5 + [LinearNet]}, "same"),  # whose turn never comes
    ],
    ids=str,
)
def test_a_pool_knows_of_which_kind_it_is(blueprint: Blueprint, settings: dict[str, Any], kind: str) -> None:
    assert pool_of(blueprint, **settings).kind == kind


def test_only_clients_that_can_run_the_whole_network_judge(blueprint: Blueprint) -> None:
    unable = pool_of(blueprint, levels=[1.0, 0.5], evaluate_whole=False)
    assert [unable.can_run_whole(client) for client in range(4)] == [True, False] * 2
    assert not unable.shares_features
    assert unable.judges_receive_whole
    other = pool_of(blueprint, models=["global", LinearNet], evaluate_whole=False)
    assert [other.can_run_whole(client) for client in range(4)] == [True, False] * 2
    for settings in ({"levels": [1.0, 0.5]}, {"models": ["global", LinearNet]}):
        pool = pool_of(blueprint, **settings)
        assert all(pool.can_run_whole(client) for client in range(4))
        assert pool.shares_features
        assert not pool.judges_receive_whole
        assert [pool.trains_whole(client) for client in range(4)] == [True, False] * 2


# what is sent


def test_clients_with_the_whole_network_are_sent_all_and_those_with_their_own_nothing(blueprint: Blueprint) -> None:
    pool, model = pool_of(blueprint, models=["global", NARROW]), blueprint.initial(0)
    assert pool.part(model, 0, round=1) is model
    assert pool.part(model, 1, round=1) == {}


@RULES
def test_a_sub_model_fits_its_network_and_holds_values_of_the_whole(blueprint: Blueprint, rule: Slicing) -> None:
    pool, model = pool_of(blueprint, levels=[1.0, 0.5, 0.25], slicing=rule), blueprint.initial(0)
    for client, features in enumerate([16, 8, 4]):
        net = pool.of(client).build(pool.part(model, client, round=2))
        assert net.head.weight.shape == (3, features)
        for name, tensor in net.state_dict().items():
            where = pool.places(client, 2)[name]
            assert torch.equal(model[name][grid(where)], tensor)


def test_half_of_the_channels_of_a_resnet_are_a_quarter_of_its_convolutions() -> None:
    blueprint = Blueprint(partial(ResNet18, width=16), (3, 32, 32), 10, (0.5,) * 3, (0.25,) * 3)
    pool, model = pool_of(blueprint, levels=[1.0, 0.5]), blueprint.initial(0)
    whole, half = (sum(t.numel() for t in pool.part(model, client, 1).values() if t.dim() == 4) for client in range(2))
    assert 0.25 < half / whole < 0.251


@pytest.mark.parametrize(
    ("rule", "by_client", "by_round", "by_seed"),
    [
        (FirstChannels(), False, False, False),
        (RandomChannels(), True, True, True),
        (RollingWindow(), False, True, False),
    ],
    ids=["HeteroFL", "Federated Dropout", "FedRolex"],
)
def test_what_decides_over_channels(
    blueprint: Blueprint, rule: Slicing, by_client: bool, by_round: bool, by_seed: bool
) -> None:
    def kept(client: int = 0, round: int = 1, seed: int = 0) -> list[int]:
        wide = Blueprint(partial(SmallCNN, width=32), (1, 8, 8), 3, (0.5,), (0.25,))
        return pool_of(wide, seed=seed, levels=[0.5], slicing=rule).places(client, round)["head.weight"][1].tolist()

    assert kept() == kept()
    assert (kept(client=1) != kept()) == by_client
    assert (kept(round=2) != kept()) == by_round
    assert (kept(seed=1) != kept()) == by_seed


def test_a_window_of_half_the_network_has_visited_all_of_it_after_a_round_for_each_channel(
    blueprint: Blueprint,
) -> None:
    """The head has the most features, 16: in 16 rounds each is held 8 times, by every client with half of them."""
    pool = pool_of(blueprint, levels=[0.5])
    held = Counter(feature for round in range(1, 17) for feature in pool.places(3, round)["head.weight"][1].tolist())
    assert held == dict.fromkeys(range(16), 8)


# refusals


@for_each(
    ("settings", "says"),
    [
        (
            {"levels": [1.0, 0.0]},
            r"clients.levels: expected shares of the channels in \(0, 1\], got 0.0, which leaves no",
        ),
        ({"levels": [1.5]}, r"clients.levels: expected shares of the channels in \(0, 1\], got 1.5"),
        ({"levels": [-0.5]}, r"clients.levels: .* got -0.5"),
        ({"levels": [float("nan")]}, r"clients.levels: .* got nan"),
        ({"levels": []}, r"clients.levels: expected a list of at least one entry, got \[\]"),
        ({"models": []}, r"clients.models: expected a list of at least one entry, got \[\]"),
        ({"levels": [0.5], "rho": 1.0}, "clients: expected one of models, levels and rho, got several"),
        ({"levels": [0.5], "models": [LinearNet]}, "clients: expected one of models, levels and rho, got several"),
        ({"rho": 0.5, "models": [LinearNet]}, "clients: expected one of models, levels and rho, got several"),
        ({"rho": -1.0}, "clients.rho: expected 0 or more, got -1.0"),
        ({"rho": float("nan")}, "clients.rho: expected 0 or more, got nan"),
        ({"levels": 0.5}, "clients.levels: expected a list of at least one entry, got 0.5"),
        ({"levels": ["1.0"]}, "clients.levels: expected shares .* got 1.0"),
        ({"models": ["globl"]}, r"clients.models\[0\]: expected global, or a class or function .* got 'globl'"),
        ({"models": ["global", SmallCNN((1, 8, 8), 3)]}, r"clients.models\[1\]: expected global, .* got SmallCNN"),
        ({"slicing": "RollingWindow"}, "clients.slicing: expected Slicing, got str"),
        ({"classifier_rows": "x"}, "clients.classifier_rows: expected holders or all, got 'x'"),
        ({"rho": 1.0, "sigma": -1}, "clients.sigma: expected 0 or more, got -1"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_what_makes_no_pool_is_refused(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(MosaicError, match=f"^{says}") as caught:
        ClientModels(**settings)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("settings", [{"levels": [1.0, 0.5]}, {"rho": 2.0}], ids=str)
def test_a_network_that_cannot_be_narrowed_is_refused(settings: dict[str, Any]) -> None:
    blueprint = Blueprint(LinearNet, (1, 8, 8), 3, (0.5,), (0.25,))
    with pytest.raises(
        MosaicError, match=r"LinearNet does not say how it is scaled: override .*give every client level 1"
    ):
        pool_of(blueprint, **settings)
    assert pool_of(blueprint, levels=[1.0]).kind == "same"


class Narrowed(Classifier):
    """A network whose narrower ones are as somebody has written them."""

    def __init__(self, image_shape: ImageShape, num_classes: int, width: int = 8, deep: bool = False) -> None:
        super().__init__(image_shape, num_classes)
        inputs = 4 * width
        self.body = nn.Sequential(
            *(nn.Conv2d(image_shape[0], width, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten()),
            *(nn.Linear(inputs, inputs), nn.ReLU(), *([nn.Linear(inputs, inputs)] if deep else [])),
        )
        self.head = nn.Linear(inputs, num_classes)
        self.width, self.deep = width, deep
        self.input_blocks = {"body.4.weight": 4}

    def scaled(self, ratio: float) -> Any:
        return type(self)(self.image_shape, self.num_classes, round(self.width * ratio), self.deep)


class NoSuchBlock(Narrowed):
    """A network with a slip of the pen."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.input_blocks = {"body.40.weight": 4}


class OddBlocks(Narrowed):
    """A network whose inputs come in other blocks."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.input_blocks = {"body.4.weight": 5}


class Attentive(LinearNet):
    """A network with attention over the rows of an image."""

    def __init__(self, image_shape: ImageShape, num_classes: int, width: int = 8, inner: int = 8) -> None:
        super().__init__(image_shape, num_classes)
        self.body = nn.Sequential(
            *(nn.Flatten(1, 2), nn.Linear(image_shape[2], width)),
            *(nn.TransformerEncoderLayer(width, 1, inner, dropout=0.0, batch_first=True), nn.Flatten()),
        )
        self.head = nn.Linear(8 * width, num_classes)
        self.input_blocks = {"head.weight": 1}

    def scaled(self, ratio: float) -> "Attentive":
        return Attentive(self.image_shape, self.num_classes, 4)


class Inward(Attentive):
    """The same, where attention stays as wide as it is."""

    def scaled(self, ratio: float) -> Attentive:
        return Inward(self.image_shape, self.num_classes, 8, round(8 * ratio))


def but(**changes: Any) -> Any:
    """A way to scale that does all right but this."""
    return lambda net, ratio: Narrowed(
        net.image_shape, net.num_classes, **{"width": round(net.width * ratio), "deep": net.deep, **changes}
    )


def test_parts_that_fit_their_network_are_cut_out_of_it(blueprint: Blueprint) -> None:
    for factory in (Narrowed, Inward, SmallCNN, MLP, ResNet18):
        pool = pool_of(blueprint.with_factory(factory), levels=[1.0, 0.5])
        assert pool.of(1).build(pool.part(pool.blueprint.initial(0), 1, round=3)) is not None


@pytest.mark.parametrize(
    ("factory", "scaled", "says"),
    [
        (NoSuchBlock, None, "expected names of weights in the network's input_blocks, got body.40.weight: "),
        (OddBlocks, None, r"expected inputs in blocks of 5 \(input_blocks\), got body.4.weight of \(32, 32\) in the"),
        (Narrowed, but(width=16), r"expected fewer channels, but some, got body.0.weight of \(8, .*, and \(16, 1, 3"),
        (Narrowed, but(width=0), ""),
        (Narrowed, but(deep=True), "expected the same tensors .* with body.6.bias, body.6.weight: "),
        (partial(Narrowed, deep=True), but(deep=False), "expected the same tensors .* with body.6.bias, body.6.weight"),
        (Narrowed, lambda *_: None, "no part of 0.5 .*TypeError: expected a mosaic.nets.Classifier, got NoneType"),
        (Narrowed, lambda *_: {}["x"], r"no part of 0.5 of the channels can be made \(KeyError: 'x'\): fix"),
        (Attentive, None, "expected layers out of which channels can be cut, got body.2.self_attn.in_proj_"),
    ],
    ids=["no block", "odd block", "wider", "nothing", "deeper", "shallower", "none", "an error", "attention"],
)
def test_a_network_whose_parts_do_not_fit_is_refused_in_one_line(
    blueprint: Blueprint, factory: Any, scaled: Any, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if scaled is not None:
        monkeypatch.setattr(Narrowed, "scaled", scaled)
    with pytest.raises(MosaicError, match=f"^clients.levels: {says}") as caught:
        pool_of(blueprint.with_factory(factory), levels=[1.0, 1.0, 1.0, 0.5])
    assert len(str(caught.value).splitlines()) == 1
    assert "give every client level 1" in str(caught.value)


class Hiding(LinearNet):
    """A network that keeps a layer where PyTorch does not find it."""

    def __init__(self, image_shape: ImageShape, num_classes: int) -> None:
        super().__init__(image_shape, num_classes)
        self.layers = [nn.Linear(num_classes, num_classes)]

    def forward(self, images: Tensor) -> Tensor:
        return self.layers[0](super().forward(images))


class Local(LinearNet):
    """A network with a function that nobody can copy."""

    def __init__(self, image_shape: ImageShape, num_classes: int) -> None:
        super().__init__(image_shape, num_classes)
        self.activation = lambda logits: logits


class Parametrised(LinearNet):
    """A network whose weight is made of others whenever it is read."""

    def __init__(self, image_shape: ImageShape, num_classes: int) -> None:
        super().__init__(image_shape, num_classes)
        self.head = nn.utils.parametrizations.weight_norm(self.head)


class WeightNorm(LinearNet):
    """The same, made before every forward."""

    def __init__(self, image_shape: ImageShape, num_classes: int) -> None:
        super().__init__(image_shape, num_classes)
        with pytest.warns(FutureWarning, match="deprecated"):
            self.head = nn.utils.weight_norm(self.head)


def test_weight_norm_is_the_one_that_can_be_copied(blueprint: Blueprint) -> None:
    ClientModels().pool(weighed := blueprint.with_factory(WeightNorm), 2, seed=0)
    net = weighed.build({name: 2 * tensor for name, tensor in weighed.initial(0).items()})
    torch.testing.assert_close(net.head(torch.ones(64)), 2 * weighed.build(weighed.initial(0)).head(torch.ones(64)))


class OnlyTrains(LinearNet):
    """A network that fails as soon as it should predict."""

    def forward(self, images: Tensor) -> Tensor:
        assert self.training
        return super().forward(images)


class Masked(LinearNet):
    """A network with a constant that nobody can average."""

    def __init__(self, image_shape: ImageShape, num_classes: int) -> None:
        super().__init__(image_shape, num_classes)
        self.register_buffer("mask", torch.full((2, 2), -torch.inf).triu(1))


class Waves(LinearNet):
    """A network of complex numbers."""

    def __init__(self, image_shape: ImageShape, num_classes: int) -> None:
        super().__init__(image_shape, num_classes)
        self.waves = nn.Parameter(torch.ones(2, dtype=torch.complex64))


class Sparse(LinearNet):
    """A network with a tensor that holds only its values other than 0."""

    def __init__(self, image_shape: ImageShape, num_classes: int) -> None:
        super().__init__(image_shape, num_classes)
        self.register_buffer("adjacency", torch.eye(3).to_sparse())


class Remembering(LinearNet):
    """A network that keeps something else than tensors."""

    def get_extra_state(self) -> dict[str, int]:
        return {"seen": 3}

    def set_extra_state(self, state: dict[str, int]) -> None:
        pass


class Drawn(LinearNet):
    """A network that draws whether it is wider."""

    def __init__(self, image_shape: ImageShape, num_classes: int) -> None:
        super().__init__(image_shape, num_classes)
        self.more = nn.Linear(1 + int(torch.randint(2, ())), 1)


class Guessing(LinearNet):
    """A network that draws in evaluation too."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(nn.functional.dropout(images, 0.5))


class Raw(LinearNet):
    """A network that forgets to normalise."""

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.body(images))
        return logits


class RawInAnotherWay(Raw):
    """The same, on purpose: no part of it is called its head."""

    def __init__(self, image_shape: ImageShape, num_classes: int) -> None:
        super().__init__(image_shape, num_classes)
        self.last = self.head
        del self.head

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.last(self.body(images))
        return logits


def test_a_forward_that_leaves_features_out_is_told(blueprint: Blueprint, caplog: pytest.LogCaptureFixture) -> None:
    for made, told in ((LinearNet, False), (RawInAnotherWay, False), (Raw, True)):
        caplog.clear()
        ClientModels().pool(blueprint.with_factory(made), 2, seed=0)
        assert ("its forward is not head(features(images))" in caplog.text) == told, made


def test_a_network_may_draw_in_evaluation(blueprint: Blueprint) -> None:
    assert same_models(blueprint.with_factory(Guessing), 2).kind == "same"
    ClientModels().pool(blueprint.with_factory(Guessing), 2, seed=0)


def test_a_network_that_is_another_each_time_is_refused_wherever_that_shows(blueprint: Blueprint) -> None:
    told = set()
    for seed in range(30):  # by chance it is the same at first
        torch.manual_seed(seed)
        try:
            same_models(blueprint.with_factory(Drawn), 2)
        except MosaicError as error:
            told |= {said for said in ("weights of another network", "whenever it is built") if said in str(error)}
    assert told == {"weights of another network", "whenever it is built"}


@pytest.mark.parametrize(
    ("factory", "says"),
    [
        (Hiding, "expected the same logits of two networks with the same weights, got others: some weights are not in"),
        (
            Local,
            r"cannot be built: it cannot be pickled \(.*\), by which it is copied: define its",
        ),
        (Parametrised, r"cannot be pickled .*, by which it is copied: in place of torch.nn.utils.parametrizations use"),
        (OnlyTrains, "cannot take images of 1x8x8: "),
        (SevenLogits, r"expected 3 logits for each image, one per class, got a tensor of shape \(2, 7\)"),
        (Torn, "expected 3 logits for each image, one per class, got tuple for two images"),
        (
            lambda *_: torch.nn.Linear(1, 3),
            "cannot be built: expected a network of class mosaic.nets.Classifier, got Linear: .*TorchvisionNet",
        ),
        (Masked, "expected finite real numbers to average, got infinite ones or NaN in mask: register a constant with"),
        (Waves, "expected finite real numbers to average, got complex numbers in waves"),
        (Sparse, "expected finite real numbers to average, got a sparse tensor in adjacency: register a constant with"),
        (Remembering, r"expected tensors in its state_dict\(\), got dict in _extra_state: keep it in a buffer"),
        (Wordy, r"expected 3 logits for each image, one per class, got a tensor of shape \(2, 3, 1\)"),
        pytest.param(
            partial(TorchvisionNet, name="alexnet"),
            "cannot take images of 1x8x8: .*choose another, or resize the images",
            marks=pytest.mark.slow,  # 60 million parameters are drawn
        ),
        (partial(TorchvisionNet, name="resnet19"), "cannot be built: .*image classifier, got resnet19: .*list_models"),
        (partial(TorchvisionNet, name="fcn_resnet50"), "cannot be built: .*image classifier, got fcn_resnet50: "),
        (partial(TorchvisionNet, name="squeezenet1_1"), "cannot be built: .*squeezenet1_1 has no linear layer"),
        (partial(SmallCNN, width=0), "cannot "),
    ],
    ids=[
        "a hidden layer",
        "a lambda",
        "a parametrisation",
        "no evaluation",
        "7 logits",
        "a tuple",
        "no classifier",
        "an infinite constant",
        "complex numbers",
        "a sparse tensor",
        "no tensor",
        "not a vector",
        "too small images",
        "unknown",
        "for segmentation",
        "no head",
        "no channels",
    ],
)
def test_an_architecture_that_cannot_classify_the_images_is_refused(blueprint: Blueprint, factory, says: str) -> None:
    with pytest.raises(MosaicError, match=rf"^clients\.models\[1\]: .*{says}"):
        pool_of(blueprint, models=[MLP, factory])
    with pytest.raises(MosaicError, match=rf"^model\.net: .*{says}"):
        same_models(blueprint.with_factory(factory), 2)


def test_an_architecture_is_tried_as_clients_use_it_and_left_as_it_was(blueprint: Blueprint) -> None:
    """In training, where BatchNorm needs more than one value; and without a trace in the process's random state."""
    before = torch.get_rng_state()
    pool = pool_of(blueprint, models=[partial(TorchvisionNet, name="mobilenet_v2")])  # which has dropout
    assert torch.equal(torch.get_rng_state(), before)
    fresh = pool.of(0).build(pool.of(0).initial(0))
    assert all(int(m.num_batches_tracked) == 0 for m in fresh.modules() if isinstance(m, nn.BatchNorm2d))
