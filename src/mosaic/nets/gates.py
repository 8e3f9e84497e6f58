"""Gates, which combine the experts' logits for an image (docs/method.md, section 5)."""

import torch
from torch import Tensor, nn


class MeanGate(nn.Module):
    """Average the experts' probabilities: the plain ensemble."""

    def forward(self, expert_logits: Tensor) -> Tensor:
        """Map ``(B, E, C)`` logits to ``(B, C)`` log-probabilities."""
        mean = expert_logits.log_softmax(-1).logsumexp(1)
        return mean.log_softmax(-1)


class WeightedLogits(nn.Module):
    """Sum the experts' logits with weights ``(E,)``; ``1 / E`` for each gives their mean."""

    weights: Tensor

    def __init__(self, weights: Tensor) -> None:
        super().__init__()
        self.register_buffer("weights", weights)

    def forward(self, expert_logits: Tensor) -> Tensor:
        """Map ``(B, E, C)`` logits to ``(B, C)``."""
        return torch.einsum("bec,e->bc", expert_logits, self.weights)


class PriorGate(nn.Module):
    """Average the experts with weights per class, without training.

    ``T_c = sum_e A[e, c] (log_softmax(z_e)_c - log pi_e(c))``, or, with ``probabilities``,
    ``T_c = log sum_e A[e, c] softmax(z_e)_c``, which does not subtract the prior.

    Args:
        authority: weight of each expert for each class, shape ``(E, C)``; every column sums to one.
        log_prior: log of every expert's smoothed label prior, shape ``(E, C)``; zeros if the experts' training loss was
            already adjusted for the prior.
        probabilities: whether to average probabilities.
    """

    authority: Tensor
    log_prior: Tensor

    def __init__(self, authority: Tensor, log_prior: Tensor, probabilities: bool = False) -> None:
        super().__init__()
        self.probabilities = probabilities
        self.register_buffer("authority", authority)
        self.register_buffer("log_prior", log_prior)

    def forward(self, expert_logits: Tensor) -> Tensor:
        """Map ``(B, E, C)`` logits to ``(B, C)`` scores."""
        log_p = expert_logits.log_softmax(-1)
        if self.probabilities:  # in log space; the clamp keeps the logarithm finite
            return (log_p + self.authority.clamp(min=1e-12).log()).logsumexp(1)
        return (self.authority * (log_p - self.log_prior)).sum(1)


class TransformerGate(nn.Module):
    """The paper's meta model: attention over the experts' logits (arXiv 2505.19699, section 4).

    Each expert's logits become a token, to which a learned embedding of the expert is added. One encoder layer lets the
    tokens attend to each other; one learned query per class reads them out.

    **Deviation:** the decoder's output for the query of a class becomes that class's logit, instead of one linear layer
    from all outputs to C logits; so no weights grow with C squared.

    Args:
        num_experts: E.
        num_classes: C.
        dim: token width, a multiple of four, the number of attention heads; small on purpose (the released gates have
            0.95 and 20.4 million parameters).
        feedforward: hidden width of the two layers; PyTorch's default of 2048 is most of the cost, and 128 is as good.
    """

    HEADS = 4

    def __init__(self, num_experts: int, num_classes: int, dim: int = 32, feedforward: int = 128) -> None:
        super().__init__()
        heads = self.HEADS
        self.token = nn.Linear(num_classes, dim)
        self.identity = nn.Parameter(0.02 * torch.randn(num_experts, dim))
        self.encoder = nn.TransformerEncoderLayer(dim, heads, feedforward, dropout=0.0, batch_first=True)
        self.query = nn.Parameter(0.02 * torch.randn(num_classes, dim))
        self.decoder = nn.TransformerDecoderLayer(dim, heads, feedforward, dropout=0.0, batch_first=True)
        self.score = nn.Linear(dim, 1)

    def forward(self, expert_logits: Tensor) -> Tensor:
        """Map ``(B, E, C)`` logits to ``(B, C)`` logits."""
        tokens = self.encoder(self.token(expert_logits.log_softmax(-1)) + self.identity)
        answers = self.decoder(self.query.expand(len(tokens), -1, -1), tokens)
        logits: Tensor = self.score(answers).squeeze(-1)
        return logits


class ResidualGate(nn.Module):
    """A closed-form gate plus a small correction, which starts at zero and is trained.

    Args:
        base: the gate to correct, for example :class:`PriorGate`; it is not trained.
        num_experts: E.
        num_classes: C.
        hidden: width of the hidden layer.
    """

    def __init__(self, base: nn.Module, num_experts: int, num_classes: int, hidden: int = 64) -> None:
        super().__init__()
        self.base = base
        self.correction = nn.Sequential(
            nn.Linear(num_experts * num_classes, hidden), nn.ReLU(), nn.Linear(hidden, num_classes)
        )
        for parameter in self.correction[-1].parameters():
            nn.init.zeros_(parameter)

    def forward(self, expert_logits: Tensor) -> Tensor:
        """Map ``(B, E, C)`` logits to ``(B, C)`` logits."""
        logits: Tensor = self.base(expert_logits) + self.correction(expert_logits.log_softmax(-1).flatten(1))
        return logits


class FusionGate(nn.Module):
    """Weight every expert on the *pairs* of classes that it has seen, and a meta model on all pairs.

    Expert i holds ``n[i, c]`` images of class c. For the pair (k, l) its logits ``r_i = z_i - log pi_i`` have weight
    ``w_i(k, l) = n[i, k] n[i, l] / (n[i, k] + n[i, l])``, zero if it lacks either class. The mixture's logits s
    minimise, over all pairs,

    ``sum_i w_i(k, l) ((s_k - s_l) - (r_ik - r_il))^2 + kappa ((s_k - s_l) - (u_k - u_l))^2``

    with the meta model's logits u and kappa the mean weight of a pair. The solution is linear in the logits: with
    ``L_i`` the graph Laplacian of ``w_i``, ``s = pinv(sum_i L_i + kappa L) (sum_i L_i r_i + kappa L u)``. The products
    with the inverse are computed once.

    Args:
        class_counts: training images of each expert and class, shape ``(E, C)``.
        log_prior: log of every expert's smoothed label prior, shape ``(E, C)``; zeros if the logits exclude it already.
    """

    log_prior: Tensor
    of_expert: Tensor
    of_meta: Tensor

    def __init__(self, class_counts: Tensor, log_prior: Tensor) -> None:
        super().__init__()
        laplacians = pair_laplacians(class_counts)
        num_classes = class_counts.shape[1]
        pairs = num_classes * (num_classes - 1)
        kappa = laplacians.diagonal(dim1=1, dim2=2).sum() / pairs
        kappa = kappa.clamp(min=1e-6)  # experts of one class have no pairs: the meta model decides
        full = num_classes * torch.eye(num_classes, dtype=torch.float64) - 1
        inverse = torch.linalg.pinv(laplacians.sum(0) + kappa * full, hermitian=True)
        self.register_buffer("log_prior", log_prior)
        self.register_buffer("of_expert", (inverse @ laplacians).float())
        self.register_buffer("of_meta", (kappa * inverse @ full).float())

    def forward(self, expert_logits: Tensor, meta_logits: Tensor) -> Tensor:
        """Map ``(B, E, C)`` expert logits and ``(B, C)`` meta logits to ``(B, C)`` logits that sum to zero."""
        opinions = expert_logits.log_softmax(-1) - self.log_prior
        fused = torch.einsum("ekc,bec->bk", self.of_expert, opinions)
        return fused + meta_logits.log_softmax(-1) @ self.of_meta.T


def pair_laplacians(class_counts: Tensor) -> Tensor:
    """Return graph Laplacians ``(E, C, C)``, in float64, of the pair weights ``n_k n_l / (n_k + n_l)`` of each expert.

    >>> pair_laplacians(torch.tensor([[2, 2, 0]]))[0]
    tensor([[ 1., -1.,  0.],
            [-1.,  1.,  0.],
            [ 0.,  0.,  0.]], dtype=torch.float64)
    """
    counts = class_counts.double()
    one, other = counts[:, :, None], counts[:, None, :]
    weights = one * other / (one + other).clamp(min=1e-12)
    weights = weights - torch.diag_embed(weights.diagonal(dim1=1, dim2=2))
    return torch.diag_embed(weights.sum(2)) - weights + 0.0
