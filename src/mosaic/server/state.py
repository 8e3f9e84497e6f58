"""What the server keeps from one round to the next."""

from dataclasses import dataclass, field

from mosaic.codec import wire
from mosaic.messages import GeneratorReply, StateDict


@wire
@dataclass(frozen=True)
class ServerState:
    """The server's state, saved in every snapshot; a run resumes from it bit for bit.

    Attributes:
        model: weights of the global model.
        generators: what clients have uploaded, once each, in client order.
        distilled: whether the model comes from an accepted student.
        returned: models on their way back to clients that keep their own, by client.
        tensors: whatever else an algorithm keeps between rounds.
    """

    model: StateDict
    generators: tuple[GeneratorReply, ...] = ()
    distilled: bool = False
    returned: dict[str, StateDict] = field(default_factory=dict)
    tensors: StateDict = field(default_factory=dict)
