"""One-bit PNG files round-trip, also with other programs, and other files are rejected."""

import io

import numpy as np
import pytest
from PIL import Image

from stgcma.data.png import decode_bits, encode_bits
from stgcma.errors import ShardMismatchError


def random_mask(height, width):
    return np.random.default_rng(0).random((height, width)) > 0.5


def png(image):
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("size", [(1, 1), (5, 8), (7, 13), (224, 224)])
def test_round_trip_and_other_programs(size):
    mask = random_mask(*size)
    data = encode_bits(mask)
    np.testing.assert_array_equal(decode_bits(data), mask)
    image = Image.open(io.BytesIO(data))
    assert image.mode == "1"
    np.testing.assert_array_equal(np.asarray(image), mask)
    np.testing.assert_array_equal(decode_bits(png(Image.fromarray(mask))), mask)


def test_a_mask_with_one_object_takes_a_few_hundred_bytes():
    mask = np.zeros((224, 224), dtype=bool)
    mask[60:140, 80:200] = True
    assert len(encode_bits(mask)) < 300


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is damaged"),
        (b"not a picture", "is damaged"),
        (encode_bits(random_mask(9, 9))[:50], "is damaged"),
        (png(Image.fromarray(random_mask(9, 9)).convert("L")), "one-bit greyscale PNG, got bit depth 8"),
    ],
)
def test_other_files_are_refused(data, message):
    with pytest.raises(ShardMismatchError, match=message):
        decode_bits(data)
