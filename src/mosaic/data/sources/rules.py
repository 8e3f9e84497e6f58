"""Rules that turn any picture into 8-bit grey or colour of one size. They are the same for every source.

1. **Orientation** in a picture's EXIF data is applied. The first frame or page is taken.
2. **16 bits** become 8: ``round(value / 257)``, so 65,535 is 255. Pillow reads colour of 16 bits as the high byte,
   which differs by at most one level.
3. **Alpha** and a transparent colour are put on white.
4. **Palettes** become colour. So does every other colour space (CMYK, YCbCr, ...).
5. **Grey and colour**: black-and-white is grey. If one picture of a set is colour, all are: grey is repeated three
   times. ``channels`` 3 or 1 forces one or the other; colour becomes grey by luma, 0.299 R + 0.587 G + 0.114 B.
6. **Sizes**: ``resize`` crops the largest centred rectangle of the target's aspect ratio, then scales it bilinearly
   with antialiasing. Without it all pictures must have one size.

The log counts what rules 2, 3 and 5 change, and palettes.
"""

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from mosaic.errors import MosaicError, require_whole

if TYPE_CHECKING:
    from PIL.Image import Image

log = logging.getLogger(__name__)
SCALED = "of 16 bits, scaled to 8 (65535 becomes 255)"
FEW_LEVELS = 64
"""Images of 16 bits that use fewer of the 256 levels are likely to hold fewer bits than their type says."""
MADE_COLOUR = "grey, repeated to three channels"
MADE_GREY = "colour, made grey by luma"
LARGEST_SIDE = 8192
"""Most pixels of a side to which pictures are scaled; one in colour has 192 MiB then."""
_ORIENTATION = 0x0112
GREY = ("1", "L", "LA", "La", "I;16", "I;16L", "I;16B", "I;16N", "I")


@dataclass(frozen=True)
class Rules:
    """The settings of the rules: 1 or 3 channels, and the height and width of all pictures."""

    channels: Literal[1, 3] | None = None
    size: tuple[int, int] | None = None

    def decode(self, picture: object) -> tuple[np.ndarray, list[str]]:
        """Apply the rules to one picture.

        Returns:
            uint8, shape ``(H, W)`` if grey and ``(H, W, 3)`` if colour; and notes for the log.

        Raises:
            Exception: whatever Pillow raises if it cannot decode; ``ValueError`` if no rule covers the values.
        """
        image, notes = plain(opened(picture))
        if self.channels is not None and len(image.getbands()) != self.channels:
            image = image.convert("L" if self.channels == 1 else "RGB")
            notes.append(MADE_GREY if self.channels == 1 else MADE_COLOUR)
        if self.size is not None:
            image = fitted(image, *self.size)
        return np.asarray(image), notes


def rules_of(channels: Literal[1, 3] | None, resize: int | list[int] | None) -> Rules:
    """Make rules of the arguments of a source; raise :class:`MosaicError` if one is out of range."""
    if channels not in (None, 1, 3):
        raise MosaicError(f"data.source.init_args.channels: expected 1 (grey), 3 (colour) or null, got {channels}")
    size = None if resize is None else list(resize) if isinstance(resize, Iterable) else [resize] * 2
    for place, side in enumerate(size or ()):
        require_whole("data.source.init_args", **{f"resize[{place}]": side})
    if size is not None and (len(size) != 2 or not 1 <= min(size) <= max(size) <= LARGEST_SIDE):
        raise MosaicError(
            f"data.source.init_args.resize: expected pixels or [height, width], of 1 to {LARGEST_SIDE}, got {resize}"
        )
    return Rules(channels, None if size is None else (int(size[0]), int(size[1])))


def opened(picture: object) -> "Image":
    """Open a picture with Pillow, without decoding it.

    Args:
        picture: bytes or path of an encoded file, an array ``(H, W[, channels])``, an image of Pillow's, or a function
            that returns any of these.
    """
    from PIL import Image

    match picture:
        case bytes():
            return Image.open(BytesIO(picture))
        case Path():
            return Image.open(BytesIO(picture.read_bytes()))  # Image.open(path) would keep a file of several pages open
        case np.ndarray():
            return Image.fromarray(picture.squeeze(-1) if picture.ndim == 3 and picture.shape[-1] == 1 else picture)
        case Image.Image():
            return picture
    if callable(picture):
        return opened(picture())
    raise TypeError(f"expected an encoded image, got {type(picture).__name__}")


def plain(image: "Image") -> tuple["Image", list[str]]:
    """Make a picture 8-bit grey (mode ``L``) or colour (``RGB``) by rules 1 to 4, and return notes for the log.

    Raises:
        ValueError: its values are not whole numbers of 8 or 16 bits.
    """
    from PIL import Image, ImageOps

    notes = list(_notes(image))
    if image.getexif().get(_ORIENTATION, 1) != 1:  # a PNG may have them after its pixels, which getexif reads
        image = ImageOps.exif_transpose(image)
    if image.mode in ("L", "RGB") and "transparency" not in image.info:
        return image, notes
    if image.mode.startswith("I"):
        values = np.asarray(image)
        if values.size and (values.min() < 0 or values.max() > 65535):
            raise ValueError(f"values reach from {values.min()} to {values.max()}, expected at most 16 bits")
        return Image.fromarray(scale_to_eight_bits(values)), notes
    if image.mode == "F":
        raise ValueError("values are fractions, expected whole numbers of 8 or 16 bits")
    grey = image.mode in GREY
    if image.has_transparency_data:
        ground = Image.new("RGBA", image.size, "white")
        ground.alpha_composite(image.convert("RGBA"))
        image = ground
    return image.convert("L" if grey else "RGB"), notes


def _notes(image: "Image") -> Iterator[str]:
    """Yield a note for each property of a picture that rules 1 to 4 change."""
    if getattr(image, "is_animated", False):
        yield "animated or of several pages: the first one is taken"
    deep = any(";16" in str(tile[3]) for tile in getattr(image, "tile", ()))
    if np.asarray(image).any() if image.mode.startswith("I") else deep:  # black is black in 8 bits, too
        yield SCALED
    if image.mode not in ("L", "RGB") or "transparency" in image.info:
        if image.has_transparency_data:
            yield "transparent in part or with an alpha channel, put on white"
        elif image.mode == "P":
            yield "with a palette, decoded to colour"


def scale_to_eight_bits(values: np.ndarray) -> np.ndarray:
    """Scale whole numbers in ``0..65535`` to uint8.

    >>> scale_to_eight_bits(np.array([0, 128, 129, 257, 32768, 65535], dtype=np.uint16))
    array([  0,   0,   1,   1, 128, 255], dtype=uint8)
    """
    return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)


def check_scaled(largest: int, origin: str) -> None:
    """Refuse images that rule 2 has made black, since they hold 8 bits in 16, and warn of those it has made dark.

    Args:
        largest: value of the images that were of 16 bits, once they have 8.
        origin: of the images, for errors.

    Raises:
        MosaicError: no value was above 385.
    """
    levels = largest + 1
    if levels <= 2:
        raise MosaicError(
            f"{origin}: expected images of 16 bits with values up to 65535, got none above 385, which would be nearly "
            "black: store values of 8 bits as uint8"
        )
    if levels <= FEW_LEVELS:
        log.warning(
            "%s: images of 16 bits use %d of 256 levels once they are scaled to 8: multiply those of 12 bits by 16",
            *(origin, levels),
        )


def fitted(image: "Image", height: int, width: int) -> "Image":
    """Crop the largest centred rectangle of the target's aspect ratio, then scale it bilinearly with antialiasing."""
    from PIL import Image

    if image.size == (width, height):
        return image
    scale = min(image.width / width, image.height / height)
    inner = max(1, round(scale * width)), max(1, round(scale * height))
    left, top = (image.width - inner[0]) // 2, (image.height - inner[1]) // 2
    part = image.crop((left, top, left + inner[0], top + inner[1]))  # resize(box=...) would use pixels around the box
    return part.resize((width, height), Image.Resampling.BILINEAR)
