"""What an image file says beside its pixels: the colour profile, which is kept, and the rest, which is named when dropped."""

from __future__ import annotations

from typing import NamedTuple

from PIL import Image

ORIENTATION = 274
_XMP = 700
_DESCRIPTIVE = {270, 271, 272, 306, 315, 33432, 34665, 34853}
"""Tags that describe: title, maker, model, time, artist, copyright (TIFF 6.0), and the directories of EXIF and GPS. The others
of a TIFF say how its pixels are stored."""
_SRGB_GAMMA = 1 / 2.2


class Metadata(NamedTuple):
    """What stands in a file beside its pixels.

    Attributes:
        icc_profile: the profile that says what colours the numbers of the file mean, as it is stored.
        others: names of what else there is, such as ``"EXIF"``.
    """

    icc_profile: bytes | None = None
    others: tuple[str, ...] = ()


def metadata_of(image: Image.Image) -> Metadata:
    """Return the metadata of an image that Pillow has loaded. The orientation is not among it: it is applied."""
    info, profile = image.info, image.info.get("icc_profile") or None
    tags = set(image.getexif())
    found = {
        "EXIF": bool(tags & _DESCRIPTIVE) if image.format == "TIFF" else bool(tags - {ORIENTATION}),
        "XMP": "xmp" in info or "XML:com.adobe.xmp" in info or _XMP in tags,
        "Photoshop data": "photoshop" in info,
        "text": bool(set(getattr(image, "text", {})) - {"XML:com.adobe.xmp"}) or "comment" in info,
        # Without a profile, the PNG's gamma alone says how light its numbers are.
        "gamma": profile is None and "srgb" not in info and abs(info.get("gamma", _SRGB_GAMMA) - _SRGB_GAMMA) > 0.01,
    }
    return Metadata(profile, tuple(name for name, present in found.items() if present))


def fits(icc_profile: bytes, channels: int) -> bool:
    """Tell whether a profile is whole and describes pixels of this many channels, grey for 1 and 2, RGB for 3 and 4.

    A profile states its length first, its colour space from byte 16 and a signature from byte 36 (ICC.1:2022, 7.2).
    """
    space = b"GRAY" if channels < 3 else b"RGB "
    whole = len(icc_profile) >= 128 and int.from_bytes(icc_profile[:4], "big") == len(icc_profile)
    return whole and icc_profile[36:40] == b"acsp" and icc_profile[16:20] == space
