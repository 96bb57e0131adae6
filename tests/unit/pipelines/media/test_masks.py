"""Masks of every PNG mode become the same bits, thresholded and never dithered."""

import io

import numpy as np
import pytest
from PIL import Image

from pipelines.media.masks import read_mask, read_picture
from stgcma.errors import ClipDecodeError

SHAPE = np.zeros((9, 13), dtype=bool)
SHAPE[2:6, 3:9] = True


def png(image):
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def grey(values):
    return Image.fromarray(np.asarray(values, dtype=np.uint8))


def opaque(alpha):
    return Image.merge("RGBA", (*[grey(SHAPE * 255)] * 3, grey(alpha)))


MODES = {
    "1": Image.fromarray(SHAPE),
    "L": grey(SHAPE * 255),
    "RGB": grey(SHAPE * 255).convert("RGB"),
    "P": grey(SHAPE * 255).convert("RGB").quantize(2),
    "LA": grey(SHAPE * 255).convert("LA"),
    "RGBA": opaque(np.full(SHAPE.shape, 255)),
    "I;16": Image.fromarray(SHAPE.astype(np.uint16) * 65535),
}


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_gives_the_same_bits(mode):
    assert MODES[mode].mode == mode
    mask = read_mask(png(MODES[mode]), "x.png")
    np.testing.assert_array_equal(mask.pixels, SHAPE)
    assert mask.num_non_binary == 0


def test_transparent_white_is_background():
    alpha = np.where(np.arange(13) < 6, 255, 0) * np.ones((9, 1))
    mask = read_mask(png(opaque(alpha)), "x.png")
    np.testing.assert_array_equal(mask.pixels, SHAPE & (alpha > 0))


def test_grey_is_thresholded_in_the_middle_and_counted_where_dithering_would_scatter_dots():
    values = np.tile(np.array([0, 90, 127, 128, 200, 255]), (40, 1))
    mask = read_mask(png(grey(values)), "x.png")
    np.testing.assert_array_equal(mask.pixels, values > 127)
    assert mask.num_non_binary == 40 * 4
    dithered = np.asarray(grey(values).convert("1"))
    assert (dithered != mask.pixels).any()


def painted(colour, background=(0, 0, 0)):
    """``[9, 13, 3]``: the shape in one colour."""
    return np.where(SHAPE[..., None], np.uint8(colour), np.uint8(background))


def palette(indices, *colours):
    image = Image.fromarray(np.asarray(indices, np.uint8), "P")
    image.putpalette([channel for colour in colours for channel in colour])
    return image


def cut_out(colour):
    """The shape opaque in one colour, the rest transparent in the same colour."""
    return Image.merge("RGBA", (*[grey(np.full(SHAPE.shape, channel)) for channel in colour], grey(SHAPE * 255)))


VOC = ((0, 0, 0), (128, 0, 0), (0, 128, 0), (64, 0, 0))
ENCODINGS = {
    "0 and 1": grey(SHAPE),
    "0 and 1 in 16 bit": Image.fromarray(SHAPE.astype(np.uint16)),
    "0 and 255 in 16 bit": Image.fromarray(SHAPE.astype(np.uint16) * 255),
    "palette, dark red": palette(SHAPE, *VOC),
    "palette, several objects": palette(SHAPE * np.where(np.arange(13) < 6, 1, 3), *VOC),
    "red": Image.fromarray(painted((255, 0, 0))),
    "dark blue": Image.fromarray(painted((0, 0, 90))),
    "two colours": Image.fromarray(np.where(np.arange(13)[:, None] < 6, painted((255, 0, 0)), painted((0, 64, 0)))),
    "black on transparent": cut_out((0, 0, 0)),
    "white on transparent": cut_out((255, 255, 255)),
}


@pytest.mark.parametrize("name", ENCODINGS)
def test_every_encoding_in_use_is_read(name):
    mask = read_mask(png(ENCODINGS[name]), "x.png")
    np.testing.assert_array_equal(mask.pixels, SHAPE)
    assert mask.num_non_binary == 0


def test_one_value_is_foreground_throughout_and_none_is_empty():
    for value in (1, 255):
        assert read_mask(png(grey(np.full((4, 4), value))), "x.png").pixels.all()
    assert not read_mask(png(grey(np.zeros((4, 4)))), "x.png").pixels.any()
    half = read_mask(png(grey(SHAPE * 90)), "x.png")
    np.testing.assert_array_equal(half.pixels, SHAPE)
    assert half.num_non_binary == SHAPE.sum()


def test_soft_edges_of_a_colour_are_cut_at_half_of_its_peak():
    ramp = np.tile(np.linspace(0, 240, 60).astype(np.uint8), (4, 1))
    mask = read_mask(png(Image.fromarray(np.stack([ramp, 0 * ramp, 0 * ramp], axis=2))), "x.png")
    np.testing.assert_array_equal(mask.pixels, ramp > 120)
    assert mask.num_non_binary == 4 * 58


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (
            grey(SHAPE * np.where(np.arange(13) < 6, 1, 2)),
            r"not black and white \(a/b.png: .*got values 0, 1, 2\. Give",
        ),
        (grey(np.where(SHAPE, 1, 0) + 255 * (np.arange(13) == 0)), r"not black and white .*values 0, 1, 255"),
        (grey(np.full((4, 4), 7)), r"not black and white .*values 7"),
        (Image.fromarray(painted((255, 0, 0), (255, 255, 255))), r"mask without black .*\(255, 0, 0\), \(255, 255"),
    ],
)
def test_what_no_rule_covers_is_refused_with_its_values(image, message):
    with pytest.raises(ClipDecodeError, match=message):
        read_mask(png(image), "a/b.png")


@pytest.mark.parametrize(("read", "reason"), [(read_mask, "mask unreadable"), (read_picture, "frame unreadable")])
@pytest.mark.parametrize("content", [b"", b"not a picture", png(grey(SHAPE * 255))[:60]])
def test_damaged_files_are_named(read, reason, content):
    with pytest.raises(ClipDecodeError, match=rf"{reason} \(a/b.png: "):
        read(content, "a/b.png")
