"""The client's half of an algorithm, as settings."""

from dataclasses import dataclass, field

from mosaic.client.objectives import CrossEntropy, LocalObjective
from mosaic.client.own_models import Personal
from mosaic.client.prototypes import PrototypeSettings
from mosaic.client.replay import ReplaySettings
from mosaic.errors import require_positive
from mosaic.generation import ClassGaussians, Generation


@dataclass(frozen=True)
class ClientProgram:
    """How clients answer requests.

    Attributes:
        objective: loss of local training.
        generation: how generators are learnt.
        prototypes: how images are summarised.
        replay: how much of local training are images drawn from all clients' generators.
        prior_epsilon: images added to the count of every class when a client's label prior is computed.
        personal: the part of a model that stays on the client: nothing, the tensors of its BatchNorm layers, or all of
            it. If a model has such tensors, there is no global model.
        share_curves: whether loss curves and quality figures of generators leave the client; not given, they do in a
            simulation only.
    """

    objective: LocalObjective = field(default_factory=CrossEntropy)
    generation: Generation = field(default_factory=ClassGaussians)
    prototypes: PrototypeSettings = field(default_factory=PrototypeSettings)
    replay: ReplaySettings = field(default_factory=ReplaySettings)
    prior_epsilon: float = 0.01
    personal: Personal = "nothing"
    share_curves: bool | None = None

    def __post_init__(self) -> None:
        """Refuse a prior with zeros."""
        require_positive("algorithm", prior_epsilon=self.prior_epsilon)
