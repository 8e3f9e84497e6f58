"""The base classes of teachers: each says what it needs, and forms a teacher from experts and evidence."""

from abc import ABC, abstractmethod

from torch import nn

from mosaic.errors import MosaicError
from mosaic.model_pool import ModelPool
from mosaic.nets.requirements import require_features, require_linear_head
from mosaic.nets.teacher import MixtureOfExperts
from mosaic.server.distillation import Teacher
from mosaic.server.experts import Experts
from mosaic.teachers.answers import ask_teacher
from mosaic.teachers.evidence import Evidence


class TeacherFactory(ABC):
    """Forms a teacher, and says beforehand what it needs.

    Attributes:
        heads_only: whether experts are their last layers alone, on the averaged model's features.
        needs_linear_heads: whether it asks the experts' last layers by themselves.
        keeps_label_prior: whether its answers still carry the label priors of the experts that it asks, so that an
            image's origin would count twice.
        ignores_pixels: whether its answers are the same for all images, whose origin must then count.
    """

    heads_only: bool = False
    needs_linear_heads: bool = False
    keeps_label_prior: bool = False
    ignores_pixels: bool = False

    def needs_prototypes(self, pool: ModelPool) -> bool:
        """Whether clients are asked for prototypes of their images."""
        return False

    def needs_owners(self, conditional: bool) -> bool:
        """Whether images are labelled by the models of the clients that they come from.

        Args:
            conditional: whether the clients' generators know the classes of their images.
        """
        return False

    def check_pool(self, pool: ModelPool) -> None:
        """Refuse clients whose models differ in a way that this teacher cannot work with.

        Raises:
            MosaicError: it does not support them.
        """
        if self.needs_linear_heads and pool.kind != "same":
            raise MosaicError(
                "algorithm.teacher: expected clients that all train the whole global network with a "
                f"{type(self).__name__} that asks the experts' heads by themselves (heads_only, fit_on_prototypes), "
                "got different models: leave that out, or clients.levels and clients.models"
            )

    def check_network(self, pool: ModelPool) -> None:
        """Refuse networks without features, where prototypes are needed, and heads that cannot be taken off.

        Raises:
            MosaicError: the network lacks what the teacher needs.
        """
        takes_features, name = self.needs_prototypes(pool), f"algorithm.teacher {type(self).__name__}"
        if not (takes_features or self.needs_linear_heads):
            return
        net = pool.blueprint.build(pool.blueprint.initial(seed=0))
        if takes_features:
            require_features(net, name, "choose mosaic.teachers.Prior, which needs no prototypes")
        if self.needs_linear_heads:
            require_linear_head(net, name, "give it one, or leave out heads_only and fit_on_prototypes")

    def check_origin(self, weight: float, conditional: bool) -> None:
        """Refuse to count an image's origin twice, or not at all.

        Args:
            weight: how much it counts beside the teacher's answers.
            conditional: whether the clients' generators know the classes of their images.

        Raises:
            MosaicError: the weight does not fit this teacher.
        """
        name = type(self).__name__
        if self.ignores_pixels and weight == 0:
            raise MosaicError(
                f"algorithm.teacher: {name} knows nothing of an image but its origin, which "
                "algorithm.distillation.origin_weight 0 ignores: set it to 1"
            )
        if self.keeps_label_prior and weight > 0 and not conditional:
            raise MosaicError(
                f"algorithm.distillation.origin_weight: expected 0, since the answers of algorithm.teacher {name} "
                f"already lean to the classes of an image's owner, got {weight}: set it to 0, or "
                "algorithm.generation.conditional true, whose labels say more"
            )

    @abstractmethod
    def form(self, experts: Experts, evidence: Evidence) -> Teacher:
        """Form a teacher.

        Args:
            experts: what it asks.
            evidence: what else is known in this round.

        Returns:
            Maps ``M`` generated images to logits of shape ``(M, C)``.
        """


class GatedTeacher(TeacherFactory):
    """A mixture of experts: a gate joins the experts' opinions. A gate of your own overrides :meth:`gate`.

    Args:
        heads_only: whether experts are their last layers alone, on the averaged model's features (released), instead of
            whole networks on the image (paper).
    """

    def __init__(self, heads_only: bool = False) -> None:
        self.heads_only = self.needs_linear_heads = heads_only

    def form(self, experts: Experts, evidence: Evidence) -> Teacher:
        """Join the experts, and measure them, their plain mean and the mixture."""
        mixture = self.mixture(experts, evidence)
        evidence.observe(experts, self.heads_only, mixture)
        return lambda source: ask_teacher(mixture, source.images)

    def mixture(self, experts: Experts, evidence: Evidence) -> MixtureOfExperts:
        """Return the experts with their gate."""
        return MixtureOfExperts(evidence.opinions(experts, self.heads_only), self.gate(experts, evidence))

    @abstractmethod
    def gate(self, experts: Experts, evidence: Evidence) -> nn.Module:
        """Return what maps the experts' logits ``(B, E, C)`` to one opinion ``(B, C)``."""
