"""What the server draws for a client to replay."""

from dataclasses import replace

import pytest
import torch

from mosaic.client.replay import LABELS, PIXELS, ReplaySettings
from mosaic.messages import TrainReply
from mosaic.server.generators import GeneratorMixture
from mosaic.server.replay import Replay, wanted_shares
from tests.server.test_generators import CPU, SHAPE, Flat, uploads

COUNTS = [[90, 0, 10], [0, 40, 10], [50, 50, 0]]
HALF = ReplaySettings(share=0.5, images=600)


def everybody() -> GeneratorMixture:
    return GeneratorMixture(uploads(COUNTS), [Flat(0), Flat(1), Flat(2)], CPU)


def drawn_for(client: int, images: GeneratorMixture | None = None) -> dict[str, torch.Tensor]:
    return Replay(images or everybody(), HALF, lambda client: torch.Generator().manual_seed(client)).draw(client)


def owners_and_labels(drawn: dict[str, torch.Tensor]) -> list[tuple[int, int]]:
    """Who has made each image, and of which class, as its pixels say."""
    said = (drawn[PIXELS][:, 0, 0, 0] / 25.5).round().long()
    assert torch.equal(said % 3, drawn[LABELS])
    return list(zip((said // 3).tolist(), drawn[LABELS].tolist(), strict=True))


def test_a_client_gets_what_it_lacks_from_everybody_else() -> None:
    """Client 1 holds 40 of the 90 images of class 1, 10 of the 20 of class 2, and none of class 0."""
    drawn = drawn_for(1)
    assert drawn[PIXELS].dtype == torch.uint8
    assert drawn[PIXELS].shape == (600, *SHAPE)
    found = owners_and_labels(drawn)
    assert {owner for owner, _ in found} == {0, 2}
    from_first = sum(owner == 0 for owner, label in found if label == 0) / sum(label == 0 for _, label in found)
    assert from_first == pytest.approx(90 / 140, abs=0.06), "each class by its owners' images"


def test_batches_have_the_classes_of_the_federation() -> None:
    """Where half of a batch is drawn, and half of a batch is enough."""
    counts = torch.tensor([[30.0, 10.0, 0.0], [10.0, 10.0, 20.0]])
    replayed = wanted_shares(counts[0], counts.sum(0), share=0.5)
    batch = 0.5 * counts[0] / counts[0].sum() + replayed
    torch.testing.assert_close(batch, counts.sum(0) / counts.sum())


def test_a_client_without_a_generator_gets_all_classes() -> None:
    assert {label for _, label in owners_and_labels(drawn_for(7))} == {0, 1, 2}


def test_nothing_is_sent_where_the_others_have_nothing_that_is_lacking() -> None:
    alone = GeneratorMixture(uploads(COUNTS[:1]), [Flat(0)], CPU)
    assert drawn_for(0, alone) == {}


def test_the_same_seed_draws_the_same_images() -> None:
    one, two = (drawn_for(0) for _ in range(2))
    assert all(torch.equal(one[name], two[name]) for name in (PIXELS, LABELS))


def test_the_prior_of_an_expert_is_that_of_its_batches() -> None:
    """Client 0 has trained half on its own 100 images, half on what was drawn."""
    replay = Replay(everybody(), HALF, lambda client: torch.Generator().manual_seed(client))
    drawn = replay.draw(0)[LABELS].bincount(minlength=3) / 600
    reply = TrainReply(0, {}, torch.tensor(COUNTS[0]), {}, {})
    torch.testing.assert_close(replay.seen(reply), torch.tensor([45.0, 0.0, 5.0]).double() + 50 * drawn.double())
    absent = replace(reply, client=2)
    assert torch.equal(replay.seen(absent), reply.class_counts), "nothing was drawn for it"
