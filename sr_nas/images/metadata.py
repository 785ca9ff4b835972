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
_SRGB_CHROMATICITIES = (0.3127, 0.329, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06)
"""White, red, green and blue (PNG specification, 11.3.2.5)."""
_SRGB_CODE_POINTS = b"\x01\x0d"
"""BT.709 primaries and the transfer function of sRGB (PNG specification, 11.3.2.6; ITU-T H.273)."""
_SCREENS = (0, 1, 72, 96)
"""Resolutions that stand in files whose writers knew none."""


class Metadata(NamedTuple):
    """What stands in a file beside its pixels.

    Attributes:
        icc_profile: the profile that says what colours the numbers of the file mean, as it is stored.
        others: names of what else there is, such as ``"EXIF"``.
    """

    icc_profile: bytes | None = None
    others: tuple[str, ...] = ()


def metadata_of(image: Image.Image, data: bytes) -> Metadata:
    """Return the metadata of an image that Pillow has loaded from ``data``. The orientation is not among it: it is applied."""
    info, profile = image.info, image.info.get("icc_profile") or None
    tags = set(image.getexif())
    found = {
        # No tags: what cannot be read.
        "EXIF": bool(tags & _DESCRIPTIVE)
        if image.format == "TIFF"
        else bool(tags - {ORIENTATION}) or ("exif" in info and not tags),
        "XMP": "xmp" in info or "XML:com.adobe.xmp" in info or _XMP in tags,
        "Photoshop data": "photoshop" in info,
        "text": bool(set(getattr(image, "text", {})) - {"XML:com.adobe.xmp"}) or "comment" in info,
        # Without a profile, the PNG's gamma alone says how light its numbers are.
        "gamma": profile is None and "srgb" not in info and abs(info.get("gamma", _SRGB_GAMMA) - _SRGB_GAMMA) > 0.01,
        "chromaticities": profile is None and "srgb" not in info and _differ(info.get("chromaticity", _SRGB_CHROMATICITIES)),
        "code points of a colour space": image.format == "PNG" and _code_points(data) != _SRGB_CODE_POINTS,
        "resolution": round(max(info.get("dpi", (0,)))) not in _SCREENS,
    }
    return Metadata(profile, tuple(name for name, present in found.items() if present))


def _differ(chromaticities: tuple[float, ...]) -> bool:
    return any(abs(one - other) > 0.001 for one, other in zip(chromaticities, _SRGB_CHROMATICITIES, strict=True))


def _code_points(png: bytes) -> bytes:
    """Return primaries and transfer function of a chunk cICP, which Pillow leaves out and no profile overrules."""
    at = png.find(b"cICP", 0, png.find(b"IDAT"))
    return _SRGB_CODE_POINTS if at < 0 else png[at + 4 : at + 6]


def fits(icc_profile: bytes, channels: int) -> bool:
    """Tell whether a profile is whole and describes pixels of this many channels, grey for 1 and 2, RGB for 3 and 4.

    A profile states its length first, its colour space from byte 16 and a signature from byte 36 (ICC.1:2022, 7.2).
    """
    space = b"GRAY" if channels < 3 else b"RGB "
    whole = len(icc_profile) >= 128 and int.from_bytes(icc_profile[:4], "big") == len(icc_profile)
    return whole and icc_profile[36:40] == b"acsp" and icc_profile[16:20] == space
