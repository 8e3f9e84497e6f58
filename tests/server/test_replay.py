"""What the server draws for clients to replay."""

from dataclasses import replace

import pytest
import torch

from mosaic.client.replay import LABELS, PIXELS, ReplaySettings
from mosaic.messages import TrainReply
from mosaic.server.generators import GeneratorMixture
from mosaic.server.replay import Replay
from tests.server.test_generators import CPU, SHAPE, Flat, uploads

COUNTS = [[90, 0, 10], [0, 40, 10], [50, 50, 0]]
HALF = ReplaySettings(share=0.5, images=600)


def replay(settings: ReplaySettings = HALF) -> Replay:
    everybody = GeneratorMixture(uploads(COUNTS), [Flat(0), Flat(1), Flat(2)], CPU)
    return Replay(everybody, settings, torch.Generator().manual_seed(0))


def test_images_of_all_owners_come_with_their_classes() -> None:
    drawn = replay().tensors
    assert drawn[PIXELS].dtype == torch.uint8
    assert drawn[PIXELS].shape == (600, *SHAPE)
    said = (drawn[PIXELS][:, 0, 0, 0] / 25.5).round().long()
    assert torch.equal(said % 3, drawn[LABELS])
    held = {(owner, label) for owner, row in enumerate(COUNTS) for label, count in enumerate(row) if count}
    assert set(zip((said // 3).tolist(), drawn[LABELS].tolist(), strict=True)) == held


def test_all_clients_of_a_round_get_the_same_images() -> None:
    one = replay()
    assert one.tensors is one.tensors
    assert torch.equal(one.tensors[PIXELS], replay().tensors[PIXELS]), "and the same seed draws them again"


@pytest.mark.parametrize("settings", [HALF, ReplaySettings(share=0.0)])
def test_without_generators_or_a_share_nothing_is_sent(settings: ReplaySettings) -> None:
    source = Replay(None, settings, torch.Generator()) if settings.share else replay(settings)
    assert source.tensors == {}
    reply = TrainReply(0, {}, torch.tensor(COUNTS[0]), {}, {})
    assert torch.equal(source.seen(reply), reply.class_counts)


def test_the_prior_of_an_expert_is_that_of_its_batches() -> None:
    """Clients have trained half on their own 100 images, half on what was drawn."""
    source, reply = replay(), TrainReply(0, {}, torch.tensor(COUNTS[0]), {}, {})
    drawn = source.tensors[LABELS].bincount(minlength=3).double() / 600
    torch.testing.assert_close(source.seen(reply), torch.tensor([45.0, 0.0, 5.0]).double() + 50 * drawn)
    other = replace(reply, client=2, class_counts=torch.tensor(COUNTS[2]))
    torch.testing.assert_close(source.seen(other), torch.tensor([25.0, 25.0, 0.0]).double() + 50 * drawn)
