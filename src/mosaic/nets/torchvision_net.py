"""Classifiers of torchvision."""

from typing import Any, cast

import torchvision
from torch import Tensor, nn

from mosaic.nets.classifier import Classifier, ImageShape


class TorchvisionNet(Classifier):
    """A torchvision classifier without trained weights, for clients with their own architecture.

    Grey images are repeated to three channels. The last linear layer is the head; the layers before it give features.

    Args:
        image_shape: channels, height, width; vision transformers are built for this size.
        num_classes: C.
        name: name in ``torchvision.models.list_models``, for example ``mobilenet_v2``.
        arguments: of the architecture.

    Raises:
        ValueError: torchvision has no such classifier, it refuses the arguments, or it has no linear layer.
    """

    def __init__(
        self,
        image_shape: ImageShape,
        num_classes: int,
        name: str = "mobilenet_v2",
        arguments: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(image_shape, num_classes)
        if name not in torchvision.models.list_models(module=torchvision.models):
            raise ValueError(
                f"TorchvisionNet: expected the name of an image classifier, got {name}: "
                "torchvision.models.list_models(module=torchvision.models) lists them"
            )
        asked = {**_asked(name, image_shape), **(arguments or {})}
        try:
            net = torchvision.models.get_model(name, weights=None, num_classes=num_classes, **asked)
        except TypeError as error:
            raise ValueError(f"TorchvisionNet: {name} does not take these arguments: {error}") from error
        linear = [place for place, module in net.named_modules() if isinstance(module, nn.Linear)]
        if not linear:
            raise ValueError(f"TorchvisionNet: {name} has no linear layer to use as the head")
        self.head = cast(nn.Linear, net.get_submodule(linear[-1]))
        net.set_submodule(linear[-1], nn.Identity())
        self.body = net

    def features(self, images: Tensor) -> Tensor:
        """Map pixels in ``[0, 1]``, shape ``(B, channels, H, W)``, to features of shape ``(B, F)``."""
        normalized = self.normalize(images)
        features: Tensor = self.body(normalized.expand(-1, 3, -1, -1) if normalized.shape[1] == 1 else normalized)
        return features


def _asked(name: str, image_shape: ImageShape) -> dict[str, Any]:
    """Return the arguments of an architecture that depend on the images, and those without which it does not learn."""
    if name.startswith("vit_"):
        return {"image_size": image_shape[1]}
    if name.startswith("maxvit_"):
        return {"input_size": image_shape[1:]}
    return {"aux_logits": False, "init_weights": True} if name in ("googlenet", "inception_v3") else {}
