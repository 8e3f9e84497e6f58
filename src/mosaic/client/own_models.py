"""Split clients' models into shared and personal tensors, and join them again."""

from collections.abc import Set
from dataclasses import dataclass
from typing import Literal

from mosaic.messages import ClientState, StateDict
from mosaic.model_pool import ModelPool
from mosaic.nets.blueprint import Blueprint
from mosaic.seeding import SERVER, seed_for

Personal = Literal["nothing", "batch_norm", "model"]


def personal_names(blueprint: Blueprint, personal: Personal) -> frozenset[str]:
    """Return the names of a model's parameters and buffers that stay on the client."""
    match personal:
        case "nothing":
            return frozenset()
        case "batch_norm":
            return blueprint.batch_norm_tensors
        case "model":
            return frozenset(blueprint.shapes)


@dataclass(frozen=True)
class OwnModels:
    """Splits clients' models into tensors that are shared and tensors that stay, and joins the two again.

    Attributes:
        pool: the model of each client.
        personal: the part of a model that stays on the client.
        seed: the run's seed.
    """

    pool: ModelPool
    personal: Personal
    seed: int

    @property
    def exist(self) -> bool:
        """Whether a part of the global network is personal, so that there is no global model."""
        return bool(personal_names(self.pool.blueprint, self.personal))

    def initial(self) -> StateDict:
        """Return the server's initial weights, without those that stay on clients."""
        blueprint = self.pool.blueprint
        start = blueprint.initial(seed_for(self.seed, 0, SERVER, "init"))
        return _pick(start, blueprint.shapes.keys() - personal_names(blueprint, self.personal))

    def split(self, client: int, model: StateDict) -> tuple[StateDict, ClientState]:
        """Split all parameters and buffers of a client's model into those to share and those that the client keeps."""
        names = personal_names(self.pool.of(client), self.personal)
        return _pick(model, model.keys() - names), ClientState(_pick(model, names))

    def join(self, client: int, received: StateDict, state: ClientState) -> StateDict:
        """Join a client's model.

        Args:
            client: number of the client.
            received: tensors from the server; if empty, the client keeps a whole model of its own.
            state: tensors that the client keeps. If empty, its part comes from the initial weights: the common ones, or
                those of its own architecture.
        """
        blueprint = self.pool.of(client)
        names = personal_names(blueprint, self.personal) if received else frozenset(blueprint.shapes)
        if not names:
            return received
        origin = client if self.pool.keeps_own(client) else SERVER
        kept = state.tensors or blueprint.initial(seed_for(self.seed, 0, origin, "init"))
        return {**_pick(kept, names), **received}


def _pick(model: StateDict, names: Set[str]) -> StateDict:
    """Return some of a model's tensors, in the model's order."""
    return {name: tensor for name, tensor in model.items() if name in names}
