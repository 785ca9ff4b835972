"""Pillow, without what it does for servers."""

from __future__ import annotations

import contextlib
import threading
import warnings
from collections.abc import Iterator

from PIL import Image

_limit = threading.Lock()


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Lift Pillow's limit of pixels and silence its warnings, in one thread at a time.

    The limit guards servers against uploads, but here the files are the user's own; it warns of EXIF that it cannot read.
    """
    with _limit, warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit
