"""Import basicsr on current torchvision.

basicsr 1.4.2, its last release, imports ``torchvision.transforms.functional_tensor``, which torchvision removed in 0.17;
the one function it takes from there lives in ``torchvision.transforms.functional``.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

from sr_nas.errors import UserError

_GONE = "torchvision.transforms.functional_tensor"


def import_basicsr() -> ModuleType:
    """Return the package ``basicsr``; after this, its submodules import as usual.

    Raises:
        UserError: basicsr is not installed.
    """
    try:
        importlib.import_module(_GONE)
    except ModuleNotFoundError as error:
        if error.name != _GONE:
            raise UserError(
                "basicsr and torchvision are not installed: pip install 'sr_nas[basicsr]' (Python 3.12 or older)."
            ) from error
        alias = ModuleType(_GONE)
        alias.rgb_to_grayscale = importlib.import_module("torchvision.transforms.functional").rgb_to_grayscale  # type: ignore[attr-defined]
        sys.modules[_GONE] = alias
    try:
        return importlib.import_module("basicsr")
    except ModuleNotFoundError as error:
        if error.name != "basicsr":
            raise
        raise UserError("basicsr is not installed: pip install 'sr_nas[basicsr]' (Python 3.12 or older).") from error
