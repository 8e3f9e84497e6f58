from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from mosaic.batches import ShuffledBatches
from mosaic.errors import MosaicError
from mosaic.losses.priors import label_prior
from mosaic.nets import Blueprint, Classifier
from mosaic.tasks.generation import GenerationTask
from mosaic.tasks.generation_settings import GenerationSettings
from mosaic.training.phases import PhaseRunner
from tests.cases import for_each
from tests.networks import copy_of, inputs_of, unchanged

TINY = GenerationSettings(latent_dim=4, width=2, batch_size=8)
RELEASED = replace(
    TINY,
    conditional=False,
    loss="bce",
    discriminator_normalization="batch",
    initialization="dcgan",
    diversity_target="uniform",
    diversity_weight=5.0,
    average_decay=0.0,
)
COUNTS = torch.tensor([12, 0, 8])


@pytest.fixture
def guide(blueprint: Blueprint) -> Classifier:
    return blueprint.build(blueprint.initial(0))


def generation_task(guide: Classifier, settings: GenerationSettings = TINY, images: int = 20) -> GenerationTask:
    torch.manual_seed(0)
    return GenerationTask(settings, guide, label_prior(COUNTS), images, seed=1)


def own_batches(steps: int) -> ShuffledBatches:
    """Twenty images of classes 0 and 2, from black to white."""
    random = torch.Generator().manual_seed(0)
    images = torch.randint(256, (20, 1, 8, 8), generator=random, dtype=torch.uint8)
    labels = torch.arange(3).repeat_interleave(COUNTS)
    return ShuffledBatches(images, labels, batch_size=8, steps=steps, seed=0)


def train(task: GenerationTask, phases: PhaseRunner, steps: int = 3) -> dict[str, Tensor]:
    return phases.run(task, own_batches(steps), seed=0)


def test_the_guide_stays_frozen_in_eval_mode_with_its_statistics(guide: Classifier, phases: PhaseRunner) -> None:
    task = generation_task(guide)
    before, modes = copy_of(task.guide), []
    task.guide.register_forward_hook(lambda net, *_: modes.append(any(m.training for m in net.modules())))
    train(task, phases)
    assert modes == [False] * 3
    assert unchanged(task.guide, before)
    assert all(p.grad is None and not p.requires_grad for p in task.guide.parameters())


def test_the_classifier_that_was_given_is_left_as_it_was(guide: Classifier, phases: PhaseRunner) -> None:
    train(generation_task(guide), phases)
    assert guide.training
    assert all(parameter.requires_grad for parameter in guide.parameters())


def test_both_nets_learn(guide: Classifier, phases: PhaseRunner) -> None:
    task = generation_task(guide)
    before = [copy_of(net) for net in (task.generator, task.discriminator)]
    curves = train(task, phases)
    assert not unchanged(task.generator, before[0])
    assert not unchanged(task.discriminator, before[1])
    assert {name: len(curve) for name, curve in curves.items()} == dict.fromkeys(
        ("discriminator", "adversarial", "diversity"), 3
    )


@pytest.mark.parametrize("settings", [TINY, RELEASED], ids=["default", "released"])
def test_discriminator_and_classifier_see_pixels_of_one_range(
    guide: Classifier, phases: PhaseRunner, settings: GenerationSettings
) -> None:
    task = generation_task(guide, settings)
    judged, guided = inputs_of(task.discriminator), inputs_of(task.guide)
    train(task, phases)
    real = torch.cat([images[:8] for images, *_ in judged[::2]])
    assert (real.min(), real.max()) == (0, 1)
    for images, *_ in [*judged, *guided]:
        assert 0 <= images.min() < images.max() <= 1


def test_real_and_fake_are_judged_in_one_batch_and_the_fakes_are_the_guides(
    guide: Classifier, phases: PhaseRunner
) -> None:
    task = generation_task(guide)
    judged, guided = inputs_of(task.discriminator), inputs_of(task.guide)
    train(task, phases, steps=1)
    (together, labels), (fakes, _) = judged
    assert len(together) == 16
    assert torch.equal(labels[:8], labels[8:])
    assert torch.equal(together[8:], fakes)
    assert torch.equal(guided[0][0], fakes)


def test_only_own_classes_are_asked_of_a_conditional_generator(guide: Classifier, phases: PhaseRunner) -> None:
    task = generation_task(guide)
    asked = inputs_of(task.generator)
    train(task, phases, steps=5)
    assert set(torch.cat([labels for _, labels in asked]).tolist()) == {0, 2}


def test_the_target_of_diversity_is_the_own_prior_or_uniform(guide: Classifier) -> None:
    assert torch.equal(generation_task(guide).target, label_prior(COUNTS))
    assert generation_task(guide, RELEASED).target.tolist() == pytest.approx([1 / 3] * 3)


@pytest.mark.parametrize("settings", [TINY, RELEASED], ids=["default", "released"])
def test_a_class_that_the_guide_never_predicts_keeps_every_loss_finite(
    guide: Classifier, phases: PhaseRunner, settings: GenerationSettings
) -> None:
    with torch.no_grad():
        guide.head.bias[1] = -1e6
    task = generation_task(guide, replace(settings, entropy_weight=1.0))
    curves = train(task, phases)
    assert {"diversity", "entropy"} < curves.keys()
    assert all(curve.isfinite().all() for curve in curves.values())
    assert all(tensor.isfinite().all() for tensor in task.trained_generator().state_dict().values())


@pytest.mark.parametrize(("images", "poor"), [(499, True), (500, False)])
def test_only_data_poor_clients_invert_batch_norm(
    guide: Classifier, phases: PhaseRunner, images: int, poor: bool
) -> None:
    task = generation_task(guide, replace(TINY, inversion_weight=1.0, inversion_below=500), images)
    assert ("inversion" in train(task, phases, steps=1)) is poor


@pytest.mark.parametrize(
    ("weight", "name"),
    [("inversion_weight", "inversion"), ("entropy_weight", "entropy"), ("diversity_weight", "diversity")],
)
def test_a_weighty_term_reaches_the_generator_and_falls(
    guide: Classifier, phases: PhaseRunner, weight: str, name: str
) -> None:
    with torch.no_grad():
        guide.head.weight.mul_(20)
    only = replace(TINY, diversity_weight=0.0, conditional=False, learning_rate=1e-2)
    curve = train(generation_task(guide, replace(only, **{weight: 1e4})), phases, steps=40)[name]
    assert curve[-5:].mean() < 0.9 * curve[:5].mean()


def test_both_optimisers_take_rate_and_betas_from_the_settings(guide: Classifier) -> None:
    task = generation_task(guide, replace(TINY, learning_rate=0.25, betas=(0.1, 0.2)))
    of_discriminator, of_generator = task.configure_optimizers()
    for optimizer, net in ((of_discriminator, task.discriminator), (of_generator, task.generator)):
        (group,) = optimizer.param_groups
        assert (group["lr"], tuple(group["betas"])) == (0.25, (0.1, 0.2))
        assert {id(parameter) for parameter in group["params"]} == {id(parameter) for parameter in net.parameters()}


def test_without_any_term_the_guide_is_not_asked(guide: Classifier, phases: PhaseRunner) -> None:
    task = generation_task(guide, replace(TINY, diversity_weight=0.0))
    guided = inputs_of(task.guide)
    assert train(task, phases).keys() == {"discriminator", "adversarial"}
    assert guided == []


def test_the_same_seeds_give_the_same_generator_bit_for_bit(guide: Classifier, phases: PhaseRunner) -> None:
    first, second = generation_task(guide), generation_task(guide)
    for task in (first, second):
        train(task, phases)
    assert unchanged(second.trained_generator(), copy_of(first.trained_generator()))


def test_the_seed_of_the_noise_matters(guide: Classifier, phases: PhaseRunner) -> None:
    first, second = generation_task(guide), generation_task(guide)
    second.noise_seed += 1
    for task in (first, second):
        train(task, phases, steps=1)
    assert not unchanged(second.trained_generator(), copy_of(first.trained_generator()))


def test_what_is_uploaded_is_the_average_or_at_decay_zero_the_last_weights(
    guide: Classifier, phases: PhaseRunner
) -> None:
    last, averaged = (generation_task(guide, replace(TINY, average_decay=decay)) for decay in (0.0, 0.9))
    for task in (last, averaged):
        train(task, phases)
        assert not task.trained_generator().training
    assert unchanged(last.trained_generator(), copy_of(last.generator))
    assert not unchanged(averaged.trained_generator(), copy_of(averaged.generator))


def norms_after(task: GenerationTask) -> list[float]:
    return [
        float(nn.utils.get_total_norm([parameter.grad for parameter in net.parameters()]))
        for net in (task.discriminator, task.generator)
    ]


def test_gradients_are_clipped_where_lightning_would_refuse_to(guide: Classifier, phases: PhaseRunner) -> None:
    clipping = PhaseRunner({"accelerator": "cpu", "devices": 1, "gradient_clip_val": 1e-3})
    clipped, free = generation_task(guide), generation_task(guide)
    train(clipped, clipping, steps=1)
    train(free, phases, steps=1)
    assert norms_after(clipped) == pytest.approx([1e-3, 1e-3], rel=1e-2)
    assert min(norms_after(free)) > 2e-3


def test_gradients_are_clipped_the_way_that_was_asked_for(guide: Classifier) -> None:
    trainer = {"accelerator": "cpu", "devices": 1, "gradient_clip_val": 1e-4, "gradient_clip_algorithm": "value"}
    task = generation_task(guide)
    train(task, PhaseRunner(trainer), steps=1)
    largest = max(float(parameter.grad.abs().max()) for parameter in task.generator.parameters())
    assert largest == pytest.approx(1e-4)
    assert min(norms_after(task)) > 1e-4


def ddp(**arguments: object) -> dict[str, object]:
    return {"class_path": "lightning.pytorch.strategies.DDPStrategy", "init_args": arguments}


@for_each(
    ("given", "amended"),
    [
        ({}, "ddp_find_unused_parameters_true"),
        ({"strategy": "ddp"}, "ddp_find_unused_parameters_true"),
        ({"strategy": "auto"}, "ddp_find_unused_parameters_true"),
        ({"strategy": ddp(timeout=5)}, ddp(timeout=5, find_unused_parameters=True)),
    ],
)
def test_ddp_is_told_that_each_pass_uses_half_of_the_parameters(
    guide: Classifier, given: dict, amended: object
) -> None:
    assert generation_task(guide).amend_trainer(given, data_parallel=True)["strategy"] == amended


def test_without_ddp_the_strategy_stays(guide: Classifier) -> None:
    assert generation_task(guide).amend_trainer({"strategy": "auto"}, data_parallel=False) == {"strategy": "auto"}


def test_the_template_itself_is_not_changed(guide: Classifier) -> None:
    template = {"gradient_clip_val": 1.0, "strategy": ddp()}
    amended = generation_task(guide).amend_trainer(template, data_parallel=True)
    assert amended.keys() == {"strategy"}
    assert template == {"gradient_clip_val": 1.0, "strategy": ddp()}


@for_each(
    ("setting", "value", "expected"),
    [
        ("steps", 0, "above 0"),
        ("min_count", 0, "above 0"),
        ("learning_rate", 0.0, "above 0"),
        ("epochs", -1.0, "0 or more"),
        ("diversity_weight", -0.5, "0 or more"),
        ("inversion_below", -3, "0 or more"),
        ("learning_rate", float("inf"), r"below 1e\+38"),
        ("average_decay", 1.0, r"\[0, 1\)"),
    ],
)
def test_what_cannot_be_trained_is_refused(setting: str, value: float, expected: str) -> None:
    with pytest.raises(MosaicError, match=rf"^algorithm\.generation\.{setting}: expected .*{expected}, got {value}$"):
        GenerationSettings(**{setting: value})


def test_betas_that_adam_would_refuse_are_refused_before_anything_is_trained() -> None:
    with pytest.raises(MosaicError, match=r"^algorithm\.generation\.betas\[1\]: expected .*\[0, 1\), got 2$"):
        GenerationSettings(betas=(0.5, 2))
