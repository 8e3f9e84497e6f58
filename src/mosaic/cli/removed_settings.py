"""Settings that older versions had, and what to do instead."""

_GONE = {
    "algorithm.distillation.hard_sample_step": (
        "set algorithm.distillation.noise to 0.1 on grey images, which is faster; leave it out on photographs"
    ),
    "algorithm.distillation.hard_sample_weighting": "leave it out: it cost about a point",
    "algorithm.distilling_rounds": "leave it out: federation.schedule says which rounds distil",
    "algorithm.fitting": "leave it out: PrototypeHead's head is computed in closed form",
    "model.stack_experts": "leave it out: stacked experts were slower on every device that was measured",
}


def gone(key: str, owner: str = "") -> str | None:
    """Return what to do instead of a key that its class does not know, if an older version knew it.

    Args:
        key: of a configuration.
        owner: path of the class that does not know it, if that is known.

    >>> gone("algorithm.fitting.epochs")
    "algorithm.fitting is gone: leave it out: PrototypeHead's head is computed in closed form"
    """
    key = key.replace(".init_args", "")
    for old, advice in _GONE.items():
        if key == old or key.startswith(f"{old}."):
            return f"{old} is gone: {advice}"
    section, _, name = key.rpartition(".")
    return _of_gans(name, owner) if section == "algorithm.generation" else None


def _of_gans(name: str, owner: str) -> str | None:
    """Say how a setting of GANs is written, since Gaussians are the default."""
    from mosaic.tasks.generation_settings import GenerationSettings

    kind = owner.rpartition(".")[2] or "ClassGaussians"
    if kind not in ("ClassGaussians", "Mixture") or name not in GenerationSettings.__dataclass_fields__:
        return None
    return (
        f"algorithm.generation: {name} is a setting of GANs, and generators here are {kind}: write class_path: "
        f"mosaic.generation.Adversarial there, {name} under init_args, or --algorithm.generation Adversarial first"
    )
