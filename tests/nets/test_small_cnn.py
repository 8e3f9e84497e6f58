import pytest

from mosaic.nets import SmallCNN


def size(net: SmallCNN) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


def test_width_16_on_digits_has_about_23_000_parameters() -> None:
    assert size(SmallCNN((1, 8, 8), 10)) == pytest.approx(23_000, rel=0.05)


def test_width_scales_features_and_size() -> None:
    narrow, wide = (SmallCNN((1, 8, 8), 10, width=width) for width in (4, 8))
    assert (narrow.head.in_features, wide.head.in_features) == (16, 32)
    assert 3 * size(narrow) < size(wide) < 4 * size(narrow)
