"""Gaussians of classes: what is drawn has the moments that were put in."""

import pytest
import torch

from mosaic.nets.class_gaussians import ClassGaussianGenerator, CosineCoefficients, cosine_basis


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 7, 5), (1, 1, 6), (2, 4, 1)])
def test_all_coefficients_are_the_image_itself(shape: tuple[int, int, int], random: torch.Generator) -> None:
    images = torch.rand(4, *shape, generator=random)
    basis = CosineCoefficients(shape, max(shape))
    assert basis.dim == images[0].numel()
    assert torch.allclose(basis.synthesise(basis.analyse(images)), images, atol=1e-5)


def test_few_coefficients_are_the_nearest_smooth_image(random: torch.Generator) -> None:
    """A projection: what is kept stays, what is left out is orthogonal to it."""
    images = torch.rand(3, 1, 8, 8, generator=random)
    basis = CosineCoefficients((1, 8, 8), 3)
    smooth = basis.synthesise(basis.analyse(images))
    assert torch.allclose(basis.synthesise(basis.analyse(smooth)), smooth, atol=1e-5)
    assert torch.allclose(((images - smooth) * smooth).sum((1, 2, 3)), torch.zeros(3), atol=1e-4)


def test_cosines_are_those_of_the_dct() -> None:
    """Against SciPy's orthonormal DCT-II."""
    from scipy.fft import dct

    assert torch.allclose(cosine_basis(6, 6), torch.tensor(dct(torch.eye(6).numpy(), norm="ortho", axis=0)), atol=1e-6)


def test_grey_images_have_no_colour_coefficients(random: torch.Generator) -> None:
    grey = torch.rand(2, 1, 6, 6, generator=random).expand(2, 3, 6, 6)
    brightness, *contrasts = CosineCoefficients((3, 6, 6), 6).analyse(grey).chunk(3, dim=1)
    assert torch.allclose(brightness, 3**0.5 * CosineCoefficients((1, 6, 6), 6).analyse(grey[:, :1]), atol=1e-5)
    assert all(torch.allclose(contrast, torch.zeros(2, 36), atol=1e-5) for contrast in contrasts)


def filled() -> ClassGaussianGenerator:
    """Classes 1 and 3 of four, around grey, with small covariances so that no pixel is clipped."""
    net = ClassGaussianGenerator((1, 4, 4), 4, torch.tensor([1, 3]), coefficients=4, components=3)
    random = torch.Generator().manual_seed(3)
    net.directions.copy_(torch.linalg.qr(torch.randn(16, 3, generator=random)).Q)
    net.own.copy_(0.08 * torch.randn(net.own.shape, generator=random).tril())
    net.mean.copy_(net.basis.analyse(torch.tensor([0.4, 0.6])[:, None, None, None].expand(2, 1, 4, 4)))
    return net


@pytest.mark.parametrize(("label", "row"), [(1, 0), (3, 1)])
def test_draws_have_mean_and_covariance_of_their_class(label: int, row: int, random: torch.Generator) -> None:
    net = filled()
    noise = torch.randn(40_000, net.latent_dim, generator=random)
    points = net.basis.analyse(net(noise, torch.full((len(noise),), label))).double()
    factor = net.directions.double() @ net.own[row].double()
    assert torch.allclose(points.mean(0), net.mean[row].double(), atol=3e-3)
    assert torch.allclose(points.T.cov(), factor @ factor.T, atol=4e-4)


def test_images_of_all_classes_are_drawn_at_once_as_they_are_one_by_one(random: torch.Generator) -> None:
    net, noise, labels = filled(), torch.randn(6, 3, generator=random), torch.tensor([1, 3, 3, 1, 3, 1])
    together = net(noise, labels)
    for i in range(6):
        assert torch.allclose(together[i], net(noise[i : i + 1], labels[i : i + 1])[0], atol=1e-6)
    assert 0 <= together.min() <= together.max() <= 1


def test_labels_are_needed() -> None:
    with pytest.raises(ValueError, match="need labels"):
        filled()(torch.zeros(1, 3))
