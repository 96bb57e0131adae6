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


@pytest.mark.parametrize(("read", "reason"), [(read_mask, "mask unreadable"), (read_picture, "frame unreadable")])
@pytest.mark.parametrize("content", [b"", b"not a picture", png(grey(SHAPE * 255))[:60]])
def test_damaged_files_are_named(read, reason, content):
    with pytest.raises(ClipDecodeError, match=rf"{reason} \(a/b.png: "):
        read(content, "a/b.png")
