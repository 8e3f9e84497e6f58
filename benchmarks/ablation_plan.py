"""The rows and settings of benchmarks/ablation.py, as data."""

from dataclasses import replace

from ablation import Row, Setting, Target, schedule

_FEDAVG, _HEAD = ("algorithms/fedavg",), ("algorithms/prototype_head",)
_PAPER = ("algorithms/mosaic_paper", "algorithms/reduced")
_UNCONDITIONAL = ("generation.conditional=false",)
_CLASSES = ("experts=class_average",)
_RELEASED_GAN = (
    *("generation.loss=bce", "generation.discriminator_normalization=batch", "generation.initialization=dcgan"),
    *("generation.learning_rate=2e-4", "generation.betas=[0.5,0.999]", "generation.average_decay=0"),
    *("generation.diversity_weight=5", "generation.diversity_target=uniform"),
)

BASE = Row(
    "the defaults before them",
    ("distillation.shift=0", "distillation.hard_sample_step=0", "distillation.average_decay=0"),
)
"""What single switches were moved around."""
CONTROLS = {
    "default": Row("Mosaic as the setting's configuration has it"),
    "FedAvg": Row("averaging alone, same rounds and local steps", overlays=_FEDAVG),
    "FedAvg, same time": Row(
        "averaging for about as long as Mosaic takes",
        ("--federation.schedule.collaborative_rounds={collaborative}", "--federation.schedule.fine_tune_rounds=3"),
        _FEDAVG,
    ),
    "H": Row("FedAvg, head retrained on prototypes: no experts, no images", overlays=_HEAD),
    "H+K": Row("teacher: head and kernel on prototypes, no experts", ("gate.kind=prototypes",)),
    "O": Row("teacher: the owner's model among the owner's classes", ("gate.kind=owner",)),
    "plain ensemble": Row("teacher: mean of the experts' probabilities", ("gate.kind=mean",)),
    "labels alone": Row(
        "no teacher: the label that a generator was given", ("gate.kind=labels", "distillation.origin_weight=1")
    ),
}
PARTS = {
    "base": Row("the default without shifts, hard steps and averaging", around="base"),
    "without shifts": Row("images stay in place", ("distillation.shift=0",)),
    "with shifts": Row("by an eighth, as everywhere else", ("distillation.shift=0.125",)),
    "without hard steps": Row("pixels are not moved against the student", ("distillation.hard_sample_step=0",)),
    "without averaging": Row("the student's last weights", ("distillation.average_decay=0",)),
    "default, prior gate": Row("closed form by class", ("gate.kind=prior",)),
    "general defaults": Row(
        "as everywhere else: an image's origin counts, the whole student is offered",
        ("distillation.origin_weight=1", "distillation.interpolation=1"),
    ),
}
TEACHERS = {
    "prior gate": Row("closed form by class", ("gate.kind=prior",)),
    "prior gate, probabilities": Row("weighted probabilities by class", ("gate.kind=prior", "gate.probabilities=true")),
    "residual gate": Row("prior gate and a trained correction", ("gate.kind=residual",)),
    "transformer gate": Row("trained and used on generated images", ("gate.kind=transformer",)),
    "transformer, features": Row("trained and used on features", ("gate.kind=transformer", "gate.space=features")),
    "transformer, crossed": Row("trained on features, used on images", ("gate.kind=transformer", "gate.space=crossed")),
    "fusion, features": Row("experts are heads on common features", ("gate.space=features",)),
    "class experts": Row("one expert per class", _CLASSES),
    "class experts, pooled": Row("variances of all images together", (*_CLASSES, "expert_statistics=pooled")),
    "class experts, recalibrated": Row(
        "statistics measured on generated images", (*_CLASSES, "expert_statistics=recalibrated")
    ),
    "experts, recalibrated": Row("statistics measured on generated images", ("expert_statistics=recalibrated",)),
}
STUDENTS = {
    "origin 0": Row("an image's origin does not count", ("distillation.origin_weight=0",)),
    "origin 0.5": Row("an image's origin counts half", ("distillation.origin_weight=0.5",)),
    "origin 2": Row("an image's origin counts twice", ("distillation.origin_weight=2",)),
    "surer origin": Row("epsilon of a tenth, 0.001", ("distillation.origin_epsilon=0.001",)),
    "not balanced": Row("images as generators make them", ("distillation.balanced=false",)),
    "generators alike": Row("every generator is drawn alike", ("distillation.generator_balance=0",)),
    "generators by size": Row("generators are drawn by their images", ("distillation.generator_balance=1",)),
    "temperature 3": Row("softer targets", ("distillation.temperature=3",)),
    "soft targets only": Row("no pseudo-labels", ("distillation.alpha=1",)),
    "pseudo-labels only": Row("no soft targets", ("distillation.alpha=0",)),
    "with JSD": Row("Jensen-Shannon divergence of weight 1", ("distillation.beta=1",)),
    "confident images": Row("teacher surer than 0.8", ("distillation.min_confidence=0.8",)),
    "five pools": Row("the pool is made anew four times", ("distillation.refreshes=4",)),
    "small pool": Row("1,000 images", ("distillation.pool_size=1000",)),
    "shifted views": Row("crops after padding by one pixel", ("distillation.view.padding=1",)),
    "hard step": Row("pixels moved by 8/255 against the student", ("distillation.hard_sample_step=0.03137",)),
    "hard weights": Row("images weigh 1 - p", ("distillation.hard_sample_weighting=true",)),
    "averaged student": Row("moving average of 0.99", ("distillation.average_decay=0.99",)),
    "interpolated": Row("half way from the average to the student", ("distillation.interpolation=0.5",)),
    "frozen statistics": Row("the student keeps its BatchNorm statistics", ("distillation.freeze_statistics=true",)),
    "rate 1e-4": Row("the released rate of the student", ("distillation.learning_rate=1e-4",)),
    "200 updates": Row("a third of the student's updates", ("distillation.steps=200",)),
    "1800 updates": Row("three times the student's updates", ("distillation.steps=1800",)),
}
CLIENTS = {
    "paper, reduced": Row("released settings; generators of width 16, 300 steps", overlays=_PAPER),
    "unconditional": Row("generators know no labels", _UNCONDITIONAL),
    "released GAN": Row("released recipe at our size, conditional", _RELEASED_GAN),
    "BCE": Row("instead of hinge", ("generation.loss=bce",)),
    "BatchNorm in D": Row("from the second layer on", ("generation.discriminator_normalization=batch",)),
    "DCGAN weights": Row("N(0, 0.02)", ("generation.initialization=dcgan",)),
    "last generator": Row("no moving average of G", ("generation.average_decay=0",)),
    "no diversity": Row("weight 0", ("generation.diversity_weight=0",)),
    "uniform diversity": Row("target uniform, weight 5", _RELEASED_GAN[-2:]),
    "entropy 0.1": Row("weight of the entropy", ("generation.entropy_weight=0.1",)),
    "entropy 1": Row("weight of the entropy", ("generation.entropy_weight=1",)),
    "inversion 0.01": Row("BatchNorm distance below 500", ("generation.inversion_weight=0.01",)),
    "inversion 0.1": Row("BatchNorm distance below 500", ("generation.inversion_weight=0.1",)),
    "inversion 1": Row("BatchNorm distance below 500", ("generation.inversion_weight=1",)),
    "half the updates": Row("of the generators", ("generation.steps=300",)),
    "rare classes too": Row("min_count 1", ("generation.min_count=1",)),
    "vacant-class loss": Row("FedVLS' local loss under Mosaic", ("objective=mosaic.client.objectives.VacantClass",)),
    "FedAvg, vacant-class loss": Row(
        "FedVLS' local loss under FedAvg", ("objective=mosaic.client.objectives.VacantClass",), _FEDAVG
    ),
    "prior-adjusted loss": Row("logit adjustment", ("objective=mosaic.client.objectives.PriorAdjusted",)),
    "experts of 200 steps": Row("one long local phase", ("--federation.schedule.expert_steps=200",)),
    "FedAvg, 200 steps once": Row(
        "the same long local phase", ("--federation.schedule.expert_steps=200",), overlays=_FEDAVG
    ),
}
LEVELS = {
    "FedRolex": Row("averaging sub-models, a rolling window of channels", overlays=_FEDAVG),
    "HeteroFL": Row(
        "averaging sub-models, the first channels", ("--clients.slicing=mosaic.nets.FirstChannels",), _FEDAVG
    ),
    "Federated Dropout": Row(
        "averaging sub-models, random channels", ("--clients.slicing=mosaic.nets.RandomChannels",), _FEDAVG
    ),
    "FedAvg, whole models": Row("every client runs the whole network", ("--clients.levels=[1.0]",), _FEDAVG),
    "Mosaic, whole models": Row("every client runs the whole network", ("--clients.levels=[1.0]",)),
    "Mosaic, class experts": Row("one expert per class, averaged by coordinate", _CLASSES),
    "Mosaic, three architectures": Row(
        "small CNN, ResNet-18 of width 8, plain network", overlays=("clients/three_architectures",)
    ),
}


def around_base(rows: dict[str, Row]) -> dict[str, Row]:
    return {name: replace(row, around="base") for name, row in rows.items()}


BASE_CONTROLS = {
    f"{name}, base": replace(CONTROLS[name], around="base") for name in ("H+K", "O", "plain ensemble", "labels alone")
}
"""Where the controls around the default would take hours."""
GROUPS = {
    "The default, FedAvg and the controls": CONTROLS,
    "What the default is made of": PARTS,
    "Controls, around the base": BASE_CONTROLS,
    "Experts and gate, around the base": around_base(TEACHERS),
    "Images and student, around the base": around_base(STUDENTS),
    "Generators and local training, around the base": around_base(CLIENTS),
    "Clients with different models": LEVELS,
}
_MATTER = (
    *("prior gate", "prior gate, probabilities", "origin 0", "hard step", "frozen statistics", "half the updates"),
    *("prior-adjusted loss", "paper, reduced", "FedAvg, vacant-class loss", "FedAvg, 200 steps once"),
)
"""What moved digits by half a point and by two standard errors, at 0.05 and at 0.1."""
_WITHOUT = ("without shifts", "without hard steps", "without averaging")
_PARTS = ("base", *_WITHOUT, "default, prior gate")
_EVERY = (*CONTROLS, *_PARTS, *TEACHERS, *STUDENTS, *CLIENTS)
_FEW_CONTROLS = ("default", "FedAvg", "FedAvg, same time", "H", "base", *BASE_CONTROLS)
_LINE = ("default", "FedAvg", "FedAvg, same time", "H", "base", "interpolated")
SAME_TIME = {
    "digits-0.05": 110,  # 122 fit
    "digits-0.1": 110,  # 122 fit
    "digits-0.5": 127,
    "digits-0.05-40": 158,
    "digits-one-shot": 13,
    "digits-0.05-fast": 122,
    "digits-0.5-fast": 124,
    "mnist-0.05": 110,  # 96 fit
    "fashion-0.05": 110,  # 98 fit
    "cifar10-0.1": 110,  # 53 fit
}
"""Rounds of FedAvg that take about as long as all of Mosaic does, by `python benchmarks/ablation.py time`; a comment
says how many fit where others were run before that was measured."""


def _digits(means: str, alpha: float, *flags: str, rows: tuple[str, ...] = _EVERY, few: int = 3) -> Setting:
    return Setting(
        means, ("digits",), (f"--data.partition.alpha={alpha}", *flags), 10, few, rows, many=(*CONTROLS, "base")
    )


def _tuned(alpha: float) -> Setting:
    means = f"Dirichlet {alpha}, 13 rounds of 20 steps at FedAvg's best rate, 0.1"
    return Setting(
        means,
        ("digits",),
        (f"--data.partition.alpha={alpha}", "--federation.schedule.learning_rate=0.1"),
        *(3, 3, _LINE, _LINE),
    )


def _part(means: str, name: str, controls: tuple[str, ...]) -> Setting:
    flags = ("--data.partition.alpha=0.05", *schedule(10, 3, 20))
    return Setting(means, (name, f"data/{name}_part"), flags, 2, 2, (*controls, *_MATTER), many=controls)


def _teachers(means: str, name: str, clients: int, alpha: float, images: int) -> Setting:
    flags = (
        *schedule(1, 0, 200),
        *(f"--data.partition.num_clients={clients}", f"--data.partition.alpha={alpha}"),
        *(f"--data.source.train={images}", "--algorithm.generation.steps=1", "--algorithm.distillation.steps=1"),
    )
    rows = ("default", "prior gate")
    return Setting(means, (name, f"data/{name}_part"), flags, 3, 3, rows, many=("default",), student=False)


_SETTINGS = {
    "digits-0.05": _digits("Dirichlet 0.05, 13 rounds of 20 steps", 0.05),
    "digits-0.1": _digits("Dirichlet 0.1, 13 rounds of 20 steps", 0.1),
    "digits-0.5": _digits("Dirichlet 0.5, 13 rounds of 20 steps", 0.5, rows=_LINE, few=10),
    "digits-0.05-40": _digits("Dirichlet 0.05, 40 rounds of 20 steps", 0.05, *schedule(37, 3, 20), rows=_LINE, few=10),
    "digits-one-shot": _digits(
        "Dirichlet 0.05, one round of 200 steps",
        0.05,
        *schedule(1, 0, 200),
        rows=(*CONTROLS, "base", "interpolated"),
        few=10,
    ),
    "digits-0.05-fast": _tuned(0.05),
    "digits-0.5-fast": _tuned(0.5),
    "mnist-0.05": _part("10,000 images, Dirichlet 0.05, 13 rounds of 20 steps", "mnist", (*CONTROLS, "base")),
    "fashion-0.05": _part(
        "10,000 images, Dirichlet 0.05, 13 rounds of 20 steps", "fashion_mnist", (*_FEW_CONTROLS, "with shifts")
    ),
    "cifar10-0.1": Setting(
        "10,000 images, small net, Dirichlet 0.1, 25 rounds of 20 steps",
        ("cifar10_small", "data/cifar10_part"),
        ("--data.partition.alpha=0.1",),
        *(2, 2, (*CONTROLS, "general defaults"), tuple(CONTROLS)),
    ),
    "teachers-mnist": _teachers(
        "teachers alone: MNIST, 20 clients, Dirichlet 0.1, 2,000 images, one round of 200 steps", "mnist", 20, 0.1, 2000
    ),
    "teachers-fashion": _teachers(
        "teachers alone: Fashion-MNIST, 10 clients, Dirichlet 0.3, 1,000 images, one round of 200 steps",
        *("fashion_mnist", 10, 0.3, 1000),
    ),
    "levels-0.05": Setting(
        "digits, Dirichlet 0.05, 13 rounds of 20 steps, levels 1, 1/2, 1/4",
        ("heterogeneous_digits",),
        ("--data.partition.alpha=0.05",),
        *(3, 3, ("default", "base", *LEVELS), ("default", *LEVELS)),
    ),
}
SETTINGS = {name: replace(setting, same_time=SAME_TIME.get(name)) for name, setting in _SETTINGS.items()}
"""By priority."""

TARGETS = (
    Target("digits 0.05, 13 rounds: accuracy", "digits-0.05", 92),
    Target("digits 0.05, 13 rounds: above FedAvg", "digits-0.05", 8, "FedAvg"),
    Target("digits 0.05, 13 rounds: above the prototype head", "digits-0.05", 2, "H"),
    Target("digits 0.05, 40 rounds: above FedAvg", "digits-0.05-40", 2.5, "FedAvg"),
    Target("digits 0.5, 13 rounds: above FedAvg", "digits-0.5", -0.5, "FedAvg"),
    Target("digits 0.05, one round: accuracy", "digits-one-shot", 85),
    Target("MNIST: above FedAvg", "mnist-0.05", 5, "FedAvg"),
    Target("Fashion-MNIST: above FedAvg", "fashion-0.05", 5, "FedAvg"),
    Target("CIFAR-10: above FedAvg", "cifar10-0.1", 3, "FedAvg"),
    *(
        Target(f"{setting}: student above its teacher", setting, -3, "gated teacher", "student")
        for setting, definition in SETTINGS.items()
        if definition.student
    ),
    *(
        Target(f"{setting}: default gate above {name}", setting, wanted, stage, "gated teacher")
        for setting, kernel in (("teachers-mnist", 2.0), ("teachers-fashion", 1.0))
        for name, stage, wanted in (
            ("the plain ensemble", "plain ensemble", 0.0),
            ("H", "prototype head", 0.0),
            ("H+K", "prototype classifier", kernel),
        )
    ),
)
"""What was aimed at before anything was measured; negative figures say by how much ours may be below."""
