"""Damaged JPEGs: what is found, and that sound ones of every kind pass."""

from __future__ import annotations

import io

import cv2
import numpy as np
import pytest
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from sr_nas.errors import UserError
from sr_nas.images.decode import decode

RANDOM = np.random.default_rng(0)
PHOTO = cv2.GaussianBlur(RANDOM.integers(0, 256, (300, 211, 3), np.uint8), (0, 0), 2) // 2 + RANDOM.integers(
    0, 128, (300, 211, 1), np.uint8
)
SETTINGS = [
    {},
    {"quality": 100, "subsampling": "4:4:4"},
    {"quality": 10, "optimize": True},
    {"progressive": True},
    {"restart_marker_blocks": 7},
    {"progressive": True, "restart_marker_rows": 2},
]


def jpeg(pixels: np.ndarray, **settings: object) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", **settings)
    return stream.getvalue()


def differing(data: bytes, whole: bytes) -> float:
    """Return the share of the pixels that are far from those of the whole file, by Pillow, which raises nothing."""
    one, other = (np.asarray(JpegImageFile(io.BytesIO(content))).astype(int) for content in (data, whole))
    return float((np.abs(one - other) > 30).any(-1).mean())


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_sound_files_pass(settings: dict[str, object]) -> None:
    white = np.full((90, 70, 3), 255, np.uint8)
    corner = np.pad(PHOTO[:40, :40], ((0, 160), (0, 160), (0, 0)), constant_values=255)
    for pixels in (PHOTO, PHOTO[:37, :3], PHOTO[..., 0], white, white[:16, :16], corner):
        data = jpeg(pixels, **settings)
        np.testing.assert_array_equal(decode(data).squeeze(), np.asarray(JpegImageFile(io.BytesIO(data))))


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_a_file_that_ends_early_is_an_error_even_with_its_end_marker(settings: dict[str, object], share: float) -> None:
    whole = jpeg(PHOTO, **settings)
    cut = whole[: int(share * len(whole))].rstrip(b"\xff") + b"\xff\xd9"
    JpegImageFile(io.BytesIO(cut)).load()
    with pytest.raises(UserError, match="a part of its picture is missing"):
        decode(cut)


@pytest.mark.parametrize("settings", SETTINGS[:3], ids=str)
@pytest.mark.parametrize("damage", ["lost", "zeroed"])
def test_bytes_that_are_lost_or_zeroed_inside_are_an_error(settings: dict[str, object], damage: str) -> None:
    whole = jpeg(PHOTO, **settings)
    at = len(whole) // 2
    count = min(3000, at // 2) if damage == "lost" else 400
    damaged = whole[:at] + bytes(count if damage == "zeroed" else 0) + whole[at + count :]
    assert differing(damaged, whole) > 0.1
    with pytest.raises(UserError, match="a part of its picture is missing"):
        decode(damaged)
