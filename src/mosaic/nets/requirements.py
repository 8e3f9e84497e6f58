"""Requirements on a classifier whose features or head are used separately."""

import torch
from torch import Tensor, nn

from mosaic.errors import MosaicError
from mosaic.nets.classifier import Classifier

HEAD = ("head.weight", "head.bias")
"""Names of the tensors of a head that is one linear layer."""


def require_features(net: Classifier, wanted_by: str, otherwise: str) -> None:
    """Raise :class:`MosaicError` unless ``features`` gives vectors, which the key ``wanted_by`` needs."""
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            features = net.eval().features(torch.zeros(2, *net.image_shape))
    except AttributeError as error:  # a network that overrides forward may have no body
        raise MosaicError(
            f"model.net: {wanted_by} needs features(), which fails: {error}: give it a body, or {otherwise}"
        ) from error
    if isinstance(features, Tensor) and features.dtype != torch.float32:
        raise MosaicError(
            f"model.net: {wanted_by} needs features of torch.float32, got {features.dtype}: leave .double() "
            "and .half() out, and set trainer.precision"
        )
    if not isinstance(features, Tensor) or features.dim() != 2 or len(features) != 2:
        got = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
        raise MosaicError(
            f"model.net: {wanted_by} needs a vector of features for each image, shape (B, F), got {got} for two images "
            f"from features(): flatten them there, or {otherwise}"
        )


def require_linear_head(net: Classifier, wanted_by: str, advice: str) -> None:
    """Raise :class:`MosaicError` unless the head is one linear layer with a bias."""
    head = getattr(net, "head", None)  # a network that overrides forward may have none
    if not isinstance(head, nn.Linear) or head.bias is None:
        other = "none" if head is None else type(head).__name__
        got = "a linear layer without bias" if isinstance(head, nn.Linear) else other
        raise MosaicError(
            f"model.net: {wanted_by} needs a head that is one torch.nn.Linear with a bias, got {got}: {advice}"
        )
    if not {*HEAD} <= net.state_dict().keys():
        raise MosaicError(
            f"model.net: {wanted_by} needs a head whose tensors are head.weight and head.bias, got "
            f"{sorted(name for name in net.state_dict() if name.startswith('head'))}: {advice}"
        )
