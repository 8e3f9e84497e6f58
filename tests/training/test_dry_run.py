import pytest
import torch

from mosaic.errors import MosaicError
from mosaic.training.dry_run import DryRun
from mosaic.training.phases import PhaseRunner


def test_a_dry_run_limits_everything() -> None:
    dry, images = DryRun(True), torch.arange(20)
    assert (dry.steps(100), dry.steps(0), dry.batch(64), dry.batch(4)) == (1, 0, 8, 4)
    assert torch.equal(dry.images(images), torch.arange(8))
    assert (dry.clients((3, 5, 7)), dry.most_images, dry.most_experts) == ((3, 5), 8, 4)


def test_any_other_run_is_not_limited() -> None:
    full, images = DryRun(False), torch.arange(20)
    assert (full.steps(100), full.batch(64)) == (100, 64)
    assert torch.equal(full.images(images), images)
    assert (full.clients((3, 5, 7)), full.most_images, full.most_experts) == ((3, 5, 7), None, None)


def test_fast_dev_run_asks_for_it() -> None:
    assert PhaseRunner({"fast_dev_run": True}).dry_run
    assert not PhaseRunner({"fast_dev_run": False}).dry_run
    assert not PhaseRunner().dry_run


def test_a_dry_run_of_several_batches_is_refused() -> None:
    with pytest.raises(MosaicError, match=r"trainer.fast_dev_run: expected true or false, got 3: a dry run has one"):
        PhaseRunner({"fast_dev_run": 3})
