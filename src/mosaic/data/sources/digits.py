"""The handwritten digits of scikit-learn."""

import numpy as np
import torch

from mosaic.data.images import Images, ImageSet
from mosaic.data.sources.base import Source


class SklearnDigits(Source):
    """Handwritten digits, 8x8 grey, 1,797 images (Alpaydin and Kaynak 1998); part of scikit-learn.

    The split is fixed, stratified and the same on every machine: 1,198 images to train on and 599 to test on.
    """

    def load(self) -> ImageSet:
        """Return the digits as uint8 images."""
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split

        pixels, labels = load_digits(return_X_y=True)
        pixels = np.round(pixels.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
        parts = train_test_split(np.arange(len(labels)), test_size=599, stratify=labels, random_state=0)
        train, test = (
            Images(torch.from_numpy(pixels[part])[:, None], torch.from_numpy(labels[part]).long()) for part in parts
        )
        return ImageSet(train, test, tuple(str(digit) for digit in range(10)))
