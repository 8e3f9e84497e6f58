"""What the server draws for clients to replay."""

import torch

from mosaic.client.replay import LABELS, PIXELS, ReplaySettings
from mosaic.messages import StateDict
from mosaic.server.generators import GeneratorMixture
from mosaic.server.replay import replayed_images
from tests.server.test_generators import CPU, SHAPE, Flat, uploads

COUNTS = [[90, 0, 10], [0, 40, 10], [50, 50, 0]]


def drawn(seed: int = 0) -> StateDict:
    everybody = GeneratorMixture(uploads(COUNTS), lambda upload: Flat(upload.client), CPU)
    return replayed_images(everybody, ReplaySettings(share=0.5, images=600), torch.Generator().manual_seed(seed))


def test_images_of_all_owners_come_with_their_classes() -> None:
    pixels, labels = drawn()[PIXELS], drawn()[LABELS]
    assert pixels.dtype == torch.uint8
    assert pixels.shape == (600, *SHAPE)
    said = (pixels[:, 0, 0, 0] / 25.5).round().long()
    assert torch.equal(said % 3, labels)
    held = {(owner, label) for owner, row in enumerate(COUNTS) for label, count in enumerate(row) if count}
    assert set(zip((said // 3).tolist(), labels.tolist(), strict=True)) == held


def test_the_same_seed_draws_the_same_images() -> None:
    assert torch.equal(drawn()[PIXELS], drawn()[PIXELS])
    assert not torch.equal(drawn()[PIXELS], drawn(seed=1)[PIXELS])
