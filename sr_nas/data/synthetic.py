"""Images with the statistics of photos, made from a number: for measuring where no data set is at hand."""

from __future__ import annotations

import numpy as np

from sr_nas.data.pairs import Image

# Levels, and the power of the spectrum: together they make PNG files as long as those of photos, 12 to 13 bits a pixel.
CONTRAST, COLOUR, NOISE, FALL = 55.0, 8.0, 1.0, 1.4


def photo_like(height: int, width: int, number: int) -> Image:
    """Return an image whose amplitude spectrum falls with a power of the frequency, as that of natural scenes does (Field 1987).

    Args:
        height: rows.
        width: columns.
        number: which image; the same number gives the same pixels.

    Returns:
        uint8 [height, width, 3], RGB: brightness, in each channel a weaker field of its own, and a little white noise.
    """
    random = np.random.default_rng(number)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    frequency[0, 0] = np.inf  # no mean
    fields = []
    for _ in range(4):
        field = np.fft.irfft2(np.fft.rfft2(random.standard_normal((height, width))) / frequency**FALL, (height, width))
        fields.append(field / field.std())
    brightness, *colours = fields
    pixels = np.stack([128 + CONTRAST * brightness + COLOUR * colour for colour in colours], axis=-1)
    pixels += NOISE * random.standard_normal(pixels.shape)
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)
