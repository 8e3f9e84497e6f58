"""What the server keeps from one round to the next."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from mosaic.codec import require_encodable, wire
from mosaic.errors import MosaicError
from mosaic.finite import are_finite
from mosaic.messages import GeneratorReply, StateDict
from mosaic.nets.blueprint import Blueprint


@wire
@dataclass(frozen=True)
class ServerState:
    """The server's state, saved in every snapshot; a run resumes from it bit for bit.

    Attributes:
        model: weights of the global model.
        generators: what clients have uploaded, once each, in client order.
        distilled: whether the model comes from the accepted student of a distilling round.
        returned: models on their way back to clients that keep their own, by client.
        tensors: whatever else an algorithm keeps between rounds.
    """

    model: StateDict
    generators: tuple[GeneratorReply, ...] = ()
    distilled: bool = False
    returned: dict[str, StateDict] = field(default_factory=dict)
    tensors: StateDict = field(default_factory=dict)


def checked_state(state: object, algorithm: str, blueprint: Blueprint, whole: bool) -> ServerState:
    """Return what an algorithm has made of the state; refuse what the next round could not begin with.

    Args:
        state: what its ``round`` has returned.
        algorithm: name of its class.
        blueprint: of the global model.
        whole: whether the model must have all tensors of the network, since clients keep none of their own.
    """
    name, shapes = f"algorithm: expected {algorithm}.round", blueprint.shapes
    if not isinstance(state, ServerState) or not isinstance(state.model, Mapping):
        raise MosaicError(f"{name} to return a ServerState, got {type(state).__name__}")
    try:
        require_encodable(state)
    except TypeError as error:
        raise MosaicError(
            f"{name} to return a state that snapshots can keep, got one that they cannot ({error}): keep numbers "
            "as dense tensors, such as torch.tensor(1)"
        ) from error
    found = {key: tensor.shape for key, tensor in state.model.items()}
    if wrong := sorted(key for key in {*found, *(shapes if whole else ())} if found.get(key) != shapes.get(key)):
        raise MosaicError(
            f"{name} to return a model of the network's tensors, got {len(wrong)} that are missing, others or of "
            f"another shape, first {wrong[0]}"
        )
    types = {key: tensor.dtype for key, tensor in blueprint.skeleton.items()}
    if any(tensor.dtype != types[key] for key, tensor in state.model.items()):  # sums may be in double precision
        state = replace(state, model={key: tensor.to(types[key]) for key, tensor in state.model.items()})
    if not are_finite(state.model.values()):
        raise MosaicError(
            f"{name} to return a model of finite numbers, got others: lower its rates, or see what it computes"
        )
    return state
