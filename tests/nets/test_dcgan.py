import pytest
import torch
from torch import nn

from mosaic.nets import Discriminator, Generator
from tests.cases import for_each

SHAPES = [(1, 8, 8), (3, 32, 32), (1, 28, 28), (3, 9, 14), (1, 3, 3), (1, 1, 8), (3, 9, 1), (1, 1, 1)]


def shapes_of(net: nn.Module, inputs: torch.Tensor, kind: type[nn.Module]) -> list[tuple[int, ...]]:
    """Shapes that leave the layers of one kind."""
    seen: list[tuple[int, ...]] = []
    for module in net.modules():
        if isinstance(module, kind):
            module.register_forward_hook(lambda _, __, output: seen.append(tuple(output.shape[1:])))
    net(inputs)
    return seen


@for_each("shape", SHAPES)
def test_images_have_the_wanted_shape_and_are_judged_by_one_logit(shape: tuple[int, int, int]) -> None:
    images = Generator(shape, 3, latent_dim=5, width=2)(torch.randn(4, 5))
    assert images.shape == (4, *shape)
    assert Discriminator(shape, 3, width=2)(images).shape == (4,)


def test_the_pyramid_is_dcgans() -> None:
    generator = Generator((3, 32, 32), 10)
    assert shapes_of(generator, torch.randn(2, 100), nn.ConvTranspose2d) == [
        (512, 4, 4),
        (256, 8, 8),
        (128, 16, 16),
        (64, 32, 32),
    ]


@pytest.mark.parametrize("initialization", ["dcgan", "default"])
def test_images_lie_between_zero_and_one_and_can_reach_both_ends(initialization) -> None:
    generator = Generator((1, 8, 8), 3, latent_dim=5, width=2, initialization=initialization)
    images = generator(1e4 * torch.randn(16, 5))
    assert 0 <= images.min() < images.max() <= 1
    with torch.no_grad():
        generator.layers[-2].weight.mul_(1e6)
    extreme = generator(torch.randn(16, 5))
    assert (extreme.min(), extreme.max()) == (0, 1)


def test_a_conditional_generator_heeds_the_label() -> None:
    generator = Generator((1, 8, 8), 3, latent_dim=5, width=4, conditional=True, initialization="default").eval()
    noise = torch.randn(1, 5).expand(3, 5)
    first, again, other = generator(noise, torch.tensor([1, 1, 2]))
    torch.testing.assert_close(first, again)
    assert not torch.allclose(first, other)


def test_an_unconditional_pair_ignores_the_label() -> None:
    generator = Generator((1, 8, 8), 3, latent_dim=5, width=2).eval()
    noise = torch.randn(4, 5)
    images = generator(noise)
    assert torch.equal(generator(noise, torch.tensor([0, 1, 2, 0])), images)
    discriminator = Discriminator((1, 8, 8), 3, width=2).eval()
    assert torch.equal(discriminator(images, torch.tensor([0, 1, 2, 0])), discriminator(images))


def test_a_conditional_discriminator_judges_image_and_label_together() -> None:
    judge = Discriminator((1, 8, 8), 3, width=2, normalization="none", conditional=True, initialization="default")
    image = torch.rand(1, 1, 8, 8).expand(3, 1, 8, 8)
    first, again, other = judge(image, torch.tensor([0, 0, 2]))
    assert first.item() == pytest.approx(again.item(), abs=1e-6)
    assert first.item() != pytest.approx(other.item())


@pytest.mark.parametrize(
    ("net", "inputs"),
    [
        (Generator((1, 8, 8), 3, latent_dim=5, width=2, conditional=True), torch.randn(2, 5)),
        (Discriminator((1, 8, 8), 3, width=2, conditional=True), torch.rand(2, 1, 8, 8)),
    ],
)
def test_a_conditional_net_asks_for_labels(net: nn.Module, inputs: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="needs labels of shape"):
        net(inputs)


@pytest.mark.parametrize(("normalization", "layers"), [("batch", 3), ("none", 0)])
def test_batch_norm_starts_at_the_second_layer_or_stays_out(normalization, layers: int) -> None:
    body = Discriminator((3, 32, 32), 3, width=2, normalization=normalization).body
    assert sum(isinstance(module, nn.BatchNorm2d) for module in body) == layers
    assert isinstance(body[0], nn.Conv2d)
    assert isinstance(body[1], nn.LeakyReLU)
    assert body[1].negative_slope == 0.2


def test_mid_grey_is_the_zero_of_a_discriminator() -> None:
    judge = Discriminator((1, 8, 8), 3, width=2, normalization="none", initialization="dcgan")
    assert judge(torch.full((2, 1, 8, 8), 0.5)).tolist() == [0, 0]
    assert judge(torch.ones(1, 1, 8, 8)).item() != 0


def test_dcgan_weights_are_small() -> None:
    torch.manual_seed(0)
    for net in (Generator((1, 32, 32), 3, width=8), Discriminator((1, 32, 32), 3, width=8)):
        weights = torch.cat([p.flatten() for p in net.parameters() if p.dim() == 4])
        assert weights.std().item() == pytest.approx(0.02, rel=0.02)
        assert weights.mean().item() == pytest.approx(0, abs=1e-3)
        scales = torch.cat([m.weight for m in net.modules() if isinstance(m, nn.BatchNorm2d)])
        assert scales.mean().item() == pytest.approx(1, abs=0.02)


def test_sizes_between_the_doublings_are_cropped() -> None:
    whole = Generator((1, 14, 16), 3, latent_dim=5, width=2)
    cropped = Generator((1, 13, 15), 3, latent_dim=5, width=2)
    cropped.load_state_dict(whole.state_dict())
    noise = torch.randn(4, 5)
    assert torch.equal(cropped.eval()(noise), whole.eval()(noise)[:, :, :13, :15])
