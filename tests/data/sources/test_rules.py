import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from mosaic.data.sources.rules import Rules, check_scaled, fitted, rules_of, scale_to_eight_bits
from mosaic.errors import MosaicError
from tests.cases import for_each
from tests.data.refusals import refused
from tests.data.sources.made import png, random_pixels


def decoded(picture: object, **rules: object) -> np.ndarray:
    return Rules(**rules).decode(picture)[0]


def notes(picture: object) -> str:
    return "; ".join(Rules().decode(picture)[1])


@pytest.mark.parametrize("shape", [(5, 6), (5, 6, 3)])
def test_plain_pictures_stay_as_they_are_and_are_not_worth_a_note(shape: tuple[int, ...]) -> None:
    pixels = random_pixels(*shape)
    assert np.array_equal(decoded(png(pixels)), pixels)
    assert notes(png(pixels)) == ""


def test_a_palette_is_looked_up() -> None:
    colours = np.array([[250, 10, 0], [0, 20, 240]], np.uint8)
    indices = random_pixels(5, 6) % 2
    picture = Image.fromarray(indices)
    picture.putpalette(colours.flatten().tolist())
    assert np.array_equal(decoded(png(picture)), colours[indices])
    assert "palette" in notes(png(picture))


def test_alpha_is_put_on_white() -> None:
    rgba = random_pixels(5, 6, 4)
    alpha = rgba[..., 3:] / 255
    expected = rgba[..., :3] * alpha + 255 * (1 - alpha)
    assert np.abs(decoded(png(rgba)) - expected).max() <= 1
    assert "put on white" in notes(png(rgba))


def test_grey_with_alpha_stays_grey() -> None:
    grey_alpha = random_pixels(5, 6, 2)
    grey_alpha[..., 1] = 0
    assert np.array_equal(decoded(png(Image.fromarray(grey_alpha, "LA"))), np.full((5, 6), 255))


@pytest.mark.parametrize("mode", ["P", "L", "RGB"])
def test_a_transparent_colour_is_put_on_white(mode: str) -> None:
    picture = Image.new(mode, (3, 2), 0)
    file = io.BytesIO()
    picture.save(file, "png", transparency=(0, 0, 0) if mode == "RGB" else 0)
    assert (decoded(file.getvalue()) == 255).all()
    assert "put on white" in notes(file.getvalue())


def test_sixteen_bits_are_divided_by_257() -> None:
    values = np.random.default_rng(0).integers(0, 65536, (8, 9), dtype=np.uint16)
    values[0, :3] = 0, 65535, 257 * 7
    got = decoded(png(values))
    assert got.dtype == np.uint8
    assert np.abs(got - values / 257).max() <= 0.5
    assert got[0, :3].tolist() == [0, 255, 7]
    assert "16 bits" in notes(png(values))


def test_eight_bits_in_sixteen_are_refused_and_twelve_are_told(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(MosaicError, match=r"here: expected images of 16 bits .* got none above 385"):
        check_scaled(int(scale_to_eight_bits(np.array([385]))[0]), "here")
    with caplog.at_level("WARNING", "mosaic"):
        check_scaled(int(scale_to_eight_bits(np.array([4095]))[0]), "there")
        check_scaled(255, "elsewhere")
    assert [record.getMessage()[:58] for record in caplog.records] == [
        "there: images of 16 bits use 17 of 256 levels once they ar"
    ]


def test_colour_of_sixteen_bits_is_at_most_one_level_away() -> None:
    values = np.random.default_rng(0).integers(0, 65536, (7, 5, 3), dtype=np.uint16)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)  # Pillow reads but cannot write them
    parts = {b"IHDR": struct.pack(">IIBBBBB", 5, 7, 16, 2, 0, 0, 0), b"IDAT": zlib.compress(rows), b"IEND": b""}
    chunks = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in parts.items()
    ]
    picture = b"\x89PNG\r\n\x1a\n" + b"".join(chunks)
    assert np.abs(decoded(picture) - values / 257).max() <= 1
    assert "16 bits" in notes(picture)


def test_all_values_of_sixteen_bits_are_scaled_to_the_nearest() -> None:
    values = np.arange(65536, dtype=np.uint16)
    assert np.array_equal(scale_to_eight_bits(values), np.rint(values / 257))


@pytest.mark.parametrize("picture", [np.full((2, 2), 70000, np.int32), np.zeros((2, 2), np.float32)])
def test_values_that_no_rule_covers_are_refused(picture: np.ndarray) -> None:
    with pytest.raises(ValueError, match="expected"):
        decoded(picture)


def test_black_and_white_is_grey() -> None:
    picture = Image.fromarray(random_pixels(5, 6) > 127)
    assert set(np.unique(decoded(png(picture)))) == {0, 255}


@pytest.mark.parametrize(
    ("mode", "red"), [("CMYK", (0, 255, 255, 0)), ("YCbCr", (76, 85, 255)), ("HSV", (0, 255, 255))]
)
def test_other_colour_spaces_become_rgb(mode: str, red: tuple[int, ...]) -> None:
    found = decoded(Image.new(mode, (6, 5), red))
    assert np.abs(found - np.tile([255.0, 0.0, 0.0], (5, 6, 1))).max() <= 1


def test_channels_are_forced_on_request() -> None:
    grey, colour = random_pixels(5, 6), random_pixels(5, 6, 3)
    assert np.array_equal(decoded(png(grey), channels=3), np.stack([grey] * 3, -1))
    assert np.abs(decoded(png(colour), channels=1) - colour @ [0.299, 0.587, 0.114]).max() <= 1


def test_orientation_is_applied() -> None:
    pixels, exif, file = random_pixels(5, 6, 3), Image.Exif(), io.BytesIO()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to be upright
    Image.fromarray(pixels).save(file, "png", exif=exif)
    assert np.array_equal(decoded(file.getvalue()), np.rot90(pixels, -1))


@pytest.mark.parametrize("place", ["after the pixels", "in text"])
def test_orientation_is_applied_wherever_a_png_holds_it(place: str) -> None:
    pixels, exif, file = random_pixels(5, 6, 3), Image.Exif(), io.BytesIO()
    exif[0x0112] = 6
    data = exif.tobytes().removeprefix(b"Exif\0\0")
    if place == "in text":  # as ImageMagick writes it
        text, words = PngInfo(), (b"Exif\0\0" + data).hex()
        text.add_text("Raw profile type exif", f"\nexif\n{len(words) // 2:8d}\n{words}\n")
        Image.fromarray(pixels).save(file, "png", pnginfo=text)
        picture = file.getvalue()
    else:
        whole, chunk = png(pixels), b"eXIf" + data
        picture = (
            whole[:-12] + struct.pack(">I", len(data)) + chunk + struct.pack(">I", zlib.crc32(chunk)) + whole[-12:]
        )
    assert np.array_equal(decoded(picture), np.rot90(pixels, -1))


def test_the_first_page_is_taken_and_the_rest_is_said() -> None:
    pages, file = [Image.fromarray(random_pixels(5, 6, seed=seed)) for seed in range(3)], io.BytesIO()
    pages[0].save(file, "tiff", save_all=True, append_images=pages[1:])
    assert np.array_equal(decoded(file.getvalue()), np.asarray(pages[0]))
    assert "first" in notes(file.getvalue())


def test_the_largest_centred_part_of_the_right_shape_is_kept() -> None:
    wide = np.zeros((4, 12), np.uint8)
    wide[:, 4:8] = 200
    assert np.array_equal(decoded(wide, size=(2, 2)), np.full((2, 2), 200))
    assert np.array_equal(decoded(wide.T.copy(), size=(2, 2)), np.full((2, 2), 200))


def test_making_smaller_averages() -> None:
    stripes = np.tile(np.array([0, 255], np.uint8), (32, 16))
    small = decoded(stripes, size=(4, 4)).astype(float)
    assert np.abs(small[:, 1:-1] - 127.5).max() < 2


def test_a_picture_of_the_right_size_is_not_touched() -> None:
    picture = Image.fromarray(random_pixels(5, 6))
    assert fitted(picture, 5, 6) is picture


@pytest.mark.parametrize(("resize", "size"), [(32, (32, 32)), ([20, 30], (20, 30)), (None, None)])
def test_a_size_is_one_number_or_two(resize: int | list[int] | None, size: tuple[int, int] | None) -> None:
    assert rules_of(None, resize).size == size


@for_each("resize", [0, -1, [3], [3, 0], [1, 2, 3], [], 8193, [3, 10**30]])
def test_sizes_that_are_none_are_refused(resize: int | list[int]) -> None:
    with refused("data.source.init_args.resize", "[height, width]", f"got {resize}"):
        rules_of(None, resize)


@pytest.mark.parametrize("channels", [0, 2, 4])
def test_other_numbers_of_channels_are_refused(channels: int) -> None:
    with refused("data.source.init_args.channels", "expected 1", f"got {channels}"):
        rules_of(channels, None)
