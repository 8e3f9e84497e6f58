"""Keys of older versions: refused in one line, with what to do instead."""

from collections.abc import Iterator, Mapping
from typing import Any

from mosaic.comparison.configurations import given_settings
from mosaic.errors import MosaicError

GONE = {
    "algorithm.distillation.hard_sample_step": (
        "set algorithm.distillation.noise to 0.1 on grey images, which is faster; leave it out on photographs"
    ),
    "algorithm.distillation.hard_sample_weighting": "leave it out: it cost about a point",
    "algorithm.distilling_rounds": "leave it out: federation.schedule says which rounds distil",
    "algorithm.fitting": "leave it out: PrototypeHead's head is computed in closed form",
    "model.stack_experts": "leave it out: stacked experts were slower on every device that was measured",
}
"""Keys without a successor, and what to do instead."""
_WITH_FEWER = ("PrototypeHead", "DENSE", "CoBoosting")
"""Algorithms that have lost settings of their own."""


def refuse_renamed(values: Mapping[str, Any]) -> None:
    """Refuse keys of older versions; name all of them, each with what to do instead.

    Args:
        values: a configuration of ``mosaic fit``; init arguments may stand under ``init_args`` or beside it.
    """
    algorithm = given_settings(values.get("algorithm"))
    sections = {
        "algorithm": algorithm if _class_name(values.get("algorithm")) in _WITH_FEWER else {},
        "algorithm.distillation": given_settings(algorithm.get("distillation")),
        "model": given_settings(values.get("model")),
    }
    lines = list(_gans(algorithm.get("generation")))
    for key, advice in GONE.items():
        section, _, last = key.rpartition(".")
        lines += [f"{key} is gone: {advice}"] if last in sections[section] else []
    if lines:
        raise MosaicError("; ".join(lines))


def _class_name(section: Any) -> str:
    """Return the last part of a section's class path, or nothing where it has none."""
    path = section.get("class_path") if isinstance(section, Mapping) else section
    return str(path or "").rpartition(".")[2]


def _gans(generation: Any) -> Iterator[str]:
    """Say how settings of GANs are written since Gaussians are the default."""
    arguments = given_settings(generation)
    kind = _class_name(generation) or "ClassGaussians"
    if not arguments or kind not in ("ClassGaussians", "Mixture"):
        return
    from mosaic.tasks.generation import GenerationSettings

    for key in arguments.keys() & GenerationSettings.__dataclass_fields__.keys():
        yield (
            f"algorithm.generation: {key} is a setting of GANs, and generators here are {kind}: write class_path: "
            f"mosaic.generation.Adversarial there, {key} under init_args, or --algorithm.generation Adversarial first"
        )
        return
