"""What the cost of a module may depend on, as a text: where it differs, a cost that was kept is of another module."""

from __future__ import annotations

import hashlib
import inspect
import re
import sys
from collections.abc import Iterator
from types import ModuleType

from torch import Tensor, nn


def described(module: nn.Module) -> str:
    """Describe a module: its parts, their shapes and settings, and the source of what is not PyTorch's own.

    The source is that of the files which define its classes and of all that these take from their own package, since a
    forward pass may call functions of other files. Values of parameters are left out.
    """
    parts = dict(module.named_modules())
    kinds = {kind for part in parts.values() for kind in type(part).__mro__ if not _is_pytorchs(kind.__module__)}
    return "\n".join(
        [
            repr(module),
            *(f"{name} {tuple(tensor.shape)} {tensor.dtype}" for name, tensor in _tensors(module)),
            *(f"{name} {_settings(part)}" for name, part in parts.items() if not _is_pytorchs(type(part).__module__)),
            *sorted({reachable_source(kind.__module__) for kind in kinds}),
        ]
    )


def reachable_source(name: str) -> str:
    """Return a digest of the source of a module of Python, and of all that it takes from its own package."""
    found: dict[str, ModuleType] = {}
    _follow(name, found)
    return hashlib.sha256("".join(_text(found[name]) for name in sorted(found)).encode()).hexdigest()


def _follow(name: str, found: dict[str, ModuleType]) -> None:
    module = sys.modules.get(name)
    if module is None or name in found:
        return
    found[name] = module
    package = name.partition(".")[0]
    for value in list(vars(module).values()):
        owner = value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None)
        if isinstance(owner, str) and owner.partition(".")[0] == package:
            _follow(owner, found)


def _text(module: ModuleType) -> str:
    try:
        return inspect.getsource(module)
    except (OSError, TypeError):  # typed in, or compiled
        return module.__name__


def _is_pytorchs(name: str) -> bool:
    return name.partition(".")[0] in ("torch", "builtins")


def _tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters()
    yield from module.named_buffers()


def _settings(module: nn.Module) -> str:
    """Attributes that a module was given and may not show in its repr, such as the kernel of a function it calls."""
    plain = vars(nn.Module())
    own = {name: value for name, value in sorted(vars(module).items()) if name not in plain}
    return re.sub(r" at 0x[0-9a-fA-F]+", "", repr(own))
