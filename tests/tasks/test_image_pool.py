import torch

from mosaic.tasks.image_pool import ImagePool


def test_a_pool_gives_back_what_it_was_given_to_the_nearest_shade(random: torch.Generator) -> None:
    pool, images = ImagePool(16, (1, 8, 8), 3, torch.device("cpu")), torch.rand(8, 1, 8, 8, generator=random)
    pool.append(torch.zeros(8, 1, 8, 8))
    kept = pool.append(images)
    assert (kept - images).abs().max() <= 0.5 / 255 + 1e-6
    assert torch.equal(pool.samples(16)[8:], kept)
    assert torch.equal(pool.samples(2)[1], kept[-1])
    assert len(pool.samples(99)) == len(pool) == 16


def test_only_images_that_have_come_are_drawn_with_their_own_answers(random: torch.Generator) -> None:
    pool = ImagePool(40, (1, 1, 1), 1, torch.device("cpu"))
    for shade in range(3):
        pool.append(torch.full((4, 1, 1, 1), shade / 255))
        pool.annotate(torch.full((4, 1), float(shade)))
    images, logits = pool.draw(200, random)
    assert set(logits.flatten().tolist()) == {0, 1, 2}
    torch.testing.assert_close(images.flatten() * 255, logits.flatten())
