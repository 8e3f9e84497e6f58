"""What of a model stays on the client, and how a client's own model is put together."""

from collections.abc import Set
from dataclasses import dataclass
from typing import Literal

from mosaic.messages import ClientState, StateDict
from mosaic.model_pool import ModelPool
from mosaic.nets.blueprint import Blueprint
from mosaic.seeding import SERVER, seed_for

Personal = Literal["nothing", "batch_norm", "model"]


def personal_names(blueprint: Blueprint, personal: Personal) -> frozenset[str]:
    """Name the parameters and buffers of a model that stay on the client.

    BatchNorm layers are found by module type, so those of shortcuts and of any other name count.

    Args:
        blueprint: of the model.
        personal: what stays.
    """
    match personal:
        case "nothing":
            return frozenset()
        case "batch_norm":
            return blueprint.batch_norm_tensors
        case "model":
            return frozenset(blueprint.shapes)


@dataclass(frozen=True)
class OwnModels:
    """Takes clients' models apart into what travels and what stays, and joins the two again.

    Attributes:
        pool: which client runs which model.
        personal: what of it stays on the client.
        seed: the run's seed.
    """

    pool: ModelPool
    personal: Personal
    seed: int

    @property
    def exist(self) -> bool:
        """Whether anything of the global network is personal, so that there is no global model."""
        return bool(personal_names(self.pool.blueprint, self.personal))

    def initial(self) -> StateDict:
        """Return the weights that the server starts from: the common ones without those that stay on clients."""
        blueprint = self.pool.blueprint
        start = blueprint.initial(seed_for(self.seed, 0, SERVER, "init"))
        return _pick(start, blueprint.shapes.keys() - personal_names(blueprint, self.personal))

    def split(self, client: int, model: StateDict) -> tuple[StateDict, ClientState]:
        """Take a client's model apart.

        Args:
            client: whose it is.
            model: all its parameters and buffers.

        Returns:
            What may travel, and what the client remembers; it is empty where nothing is personal.
        """
        names = personal_names(self.pool.of(client), self.personal)
        return _pick(model, model.keys() - names), ClientState(_pick(model, names))

    def join(self, client: int, received: StateDict, state: ClientState) -> StateDict:
        """Put a client's model together.

        Args:
            client: whose it is.
            received: what has come from the server; where it is empty the client keeps a whole model of its own.
            state: what the client remembers. Before it does, its own part is that of the initial weights: the common
                ones, which need not be sent, or those of its own architecture.
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
