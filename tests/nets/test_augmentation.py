import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mosaic.nets.augmentation import Augmentation
from tests.data.refusals import refused


def coloured(batch: int, height: int = 5, width: int = 6) -> Tensor:
    """Images in which no pixel value occurs twice, so that a crop says where it came from; zero is the border."""
    return torch.arange(1, batch * 3 * height * width + 1).float().view(batch, 3, height, width)


def place(image: Tensor, crop: Tensor, padding: int, flip: bool) -> tuple[int, int, bool] | None:
    """Find top, left and mirroring of a crop by trying all of them."""
    height, width = image.shape[-2:]
    padded = F.pad(image, [padding] * 4)
    for mirrored in (False, True)[: 1 + flip]:
        for top in range(2 * padding + 1):
            for left in range(2 * padding + 1):
                window = padded[:, top : top + height, left : left + width]
                if torch.equal(crop, window.flip(-1) if mirrored else window):
                    return top, left, mirrored
    return None


@pytest.mark.parametrize(("padding", "flip"), [(0, True), (1, False), (2, True), (4, True)])
@pytest.mark.parametrize("batch", [1, 40])
def test_every_output_is_a_crop_of_its_own_input(padding: int, flip: bool, batch: int, random: torch.Generator) -> None:
    images = coloured(batch)
    changed = Augmentation(padding, flip)(images, random)
    assert changed.shape == images.shape
    assert all(place(image, crop, padding, flip) for image, crop in zip(images, changed, strict=True))


def test_images_move_apart_from_each_other_and_reach_every_offset(random: torch.Generator) -> None:
    image = coloured(1)
    changed = Augmentation(padding=1, flip=True)(image.expand(400, -1, -1, -1), random)
    places = [place(image[0], crop, 1, True) for crop in changed]
    assert set(places) == {(top, left, mirrored) for top in range(3) for left in range(3) for mirrored in (False, True)}
    assert max(map(places.count, set(places))) < 60


def test_half_of_the_images_are_mirrored(random: torch.Generator) -> None:
    images = coloured(400)
    changed = Augmentation(flip=True)(images, random)
    mirrored = (changed == images.flip(-1)).flatten(1).all(1)
    assert ((changed == images).flatten(1).all(1) != mirrored).all()
    assert 160 < mirrored.sum() < 240


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64])
def test_no_padding_and_no_flip_change_nothing(dtype: torch.dtype, random: torch.Generator) -> None:
    images = coloured(2).to(dtype)
    changed = Augmentation()(images, random)
    assert changed.dtype == dtype
    assert torch.equal(changed, images)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(1, 1, 8, 8), (3, 3, 7, 2), (2, 1, 1, 9)])
def test_shape_and_type_are_kept(dtype: torch.dtype, shape: tuple[int, ...], random: torch.Generator) -> None:
    changed = Augmentation(padding=2, flip=True)(torch.ones(shape, dtype=dtype), random)
    assert changed.dtype == dtype
    assert changed.shape == shape
    assert set(changed.unique().tolist()) <= {0, 1}


def test_the_input_is_left_alone(random: torch.Generator) -> None:
    images = coloured(8)
    before = images.clone()
    Augmentation(padding=2, flip=True)(images, random).zero_()
    assert torch.equal(images, before)


def test_the_generator_decides_and_the_global_stream_does_not() -> None:
    def view(seed: int) -> Tensor:
        return Augmentation(padding=2, flip=True)(coloured(20), torch.Generator().manual_seed(seed))

    torch.manual_seed(1)
    first, before = view(0), torch.get_rng_state()
    torch.manual_seed(2)
    assert torch.equal(view(0), first)
    assert not torch.equal(view(1), first)
    torch.manual_seed(1)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_second_view_is_another_one(random: torch.Generator) -> None:
    augment = Augmentation(padding=2, flip=True)
    assert not torch.equal(augment(coloured(20), random), augment(coloured(20), random))


def test_negative_padding_is_refused() -> None:
    with refused("augmentation.padding", "0 or more", "got -1"):
        Augmentation(padding=-1)


def test_data_modules_find_it_where_it_always_was() -> None:
    from mosaic import data

    assert data.Augmentation is Augmentation
