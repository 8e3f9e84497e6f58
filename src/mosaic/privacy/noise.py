"""Noise that nobody but the client can know: from a secret of the operating system, never from the run's seed.

The server knows the seed of a run, and with it every stream of ``seed_for``: it could subtract such noise again.
"""

import hashlib
import secrets

import numpy as np
import torch
from scipy.special import ndtri
from torch import Tensor

SECRET_BYTES = 32
_RESOLUTION = 2.0**-53


def new_secret() -> bytes:
    """Return a secret of the operating system, from which all noise of one answer follows."""
    return secrets.token_bytes(SECRET_BYTES)


class SecretNoise:
    """Random streams that follow from a secret, each with a name of its own (SHAKE-256 as a stream cipher).

    Args:
        secret: 32 bytes that nobody else knows.
    """

    def __init__(self, secret: bytes) -> None:
        if len(secret) != SECRET_BYTES:
            raise ValueError(f"expected a secret of {SECRET_BYTES} bytes, got {len(secret)}")
        self._secret = secret
        self._used: set[str] = set()

    def whole_gaussian(self, stream: str, shape: tuple[int, ...], deviation: float) -> Tensor:
        """Return Gaussian noise, rounded to whole numbers, as float64.

        Added to whole numbers this is the Gaussian mechanism with its result rounded: ``round(z) + s = round(z + s)``.
        So it costs what the Gaussian mechanism costs, and as neither number has a fractional part, the low bits of a
        floating-point sum tell nothing (Mironov 2012). What is left open is that a uniform number of 53 bits stands for
        a real one: no noise is beyond 8.3 deviations.

        Args:
            stream: name of the stream; each may be used once.
            shape: of the noise.
            deviation: standard deviation before rounding, much larger than 1.

        Raises:
            RuntimeError: the stream was used before.
        """
        return (self.gaussian(stream, shape) * deviation).round()

    def gaussian(self, stream: str, shape: tuple[int, ...]) -> Tensor:
        """Return standard normal numbers, float64, one for each 64 bits of the stream."""
        words = self._words(stream, int(np.prod(shape)))
        sign = np.where(words & np.uint64(1), 1.0, -1.0)
        lower = ((words >> np.uint64(11)).astype(np.float64) + 0.5) * (
            _RESOLUTION / 2
        )  # in (0, 1/2): exact in the tail
        return torch.from_numpy(sign * ndtri(lower)).reshape(shape)

    def uniform(self, stream: str, count: int) -> Tensor:
        """Return uniform numbers in ``[0, 1)``, float64, shape ``(count,)``."""
        words = self._words(stream, count)
        return torch.from_numpy((words >> np.uint64(11)).astype(np.float64) * _RESOLUTION)

    def seed(self, stream: str) -> int:
        """Return a seed for generators whose numbers need not be safe, such as those of augmentation and dropout.

        Were it public, one image more could change how all others are shifted.
        """
        return int(self._words(stream, 1)[0] >> np.uint64(1))

    def _words(self, stream: str, count: int) -> np.ndarray:
        if stream in self._used:
            raise RuntimeError(
                f"the noise stream {stream!r} was used before: two results with one noise tell the truth"
            )
        self._used.add(stream)
        return np.frombuffer(hashlib.shake_256(self._secret + stream.encode()).digest(8 * count), dtype="<u8")
