"""Registries: named functions and classes that an option file selects by ``type``.

A registry imports every module of its packages when it is first asked, so adding an entry means adding one decorated function or
class. Its keyword arguments *are* its options: :mod:`sr_nas.options.strict` reads types, defaults and bounds off its signature.
A plug-in is a Python file outside the package that registers entries, too.
"""

from __future__ import annotations

import hashlib
import importlib
import pkgutil
import sys
import traceback
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol, TypeVar

from sr_nas.errors import UserError, absent, first_line, listing, nearest

Entry = TypeVar("Entry", bound=Callable[..., Any])


class Section(Protocol):
    """A checked section of an option file: the name of an entry, and its keyword arguments."""

    @property
    def type(self) -> str: ...

    def arguments(self) -> dict[str, Any]: ...


class Registry:
    """Named functions or classes of one kind.

    Args:
        kind: as error messages call an entry (``"regularizer"``).
        packages: module or packages whose import registers the entries, separated by blanks.
        supplied: parameters that the program passes itself; no option sets them.
        guests: prefix of names -> module with a function ``entry(name)``, for entries of an optional package
            (``"basicsr.RRDBNet"``), which :meth:`names` leaves out.
    """

    def __init__(self, kind: str, packages: str, supplied: tuple[str, ...] = (), guests: Mapping[str, str] | None = None) -> None:
        self.kind, self.packages, self.supplied, self.guests = kind, packages.split(), supplied, guests or {}
        self._entries: dict[str, Callable[..., Any]] = {}
        self._filled = False

    def register(self, name: str | None = None) -> Callable[[Entry], Entry]:
        """Decorator that enters a function or class under ``name`` (default: its own name)."""

        def enter(entry: Entry) -> Entry:
            key = name or entry.__name__
            if not _module_of(entry).startswith("sr_nas."):
                self._fill()  # so that a name of the package's is known to be taken
            if (taken := self._entries.get(key, entry)) is not entry:
                where = sys.modules[_module_of(taken)].__file__
                raise ValueError(f"the {self.kind} '{key}' is there already, in {where}: give this one another name")
            self._entries[key] = entry
            return entry

        return enter

    def names(self) -> list[str]:
        """All names, by module and in the order of registration within it, whichever module was imported first."""
        self._fill()
        modules = {name: _module_of(entry) for name, entry in self._entries.items()}
        return sorted((name for name in modules if not self.is_guest(name)), key=modules.__getitem__)

    def is_guest(self, name: Any) -> bool:
        return isinstance(name, str) and name.startswith(tuple(self.guests))

    def get(self, name: str) -> Callable[..., Any]:
        """Return the entry called ``name``; raise UserError where there is none, or its optional package is missing."""
        self._fill()
        if name not in self._entries:
            if not self.is_guest(name):
                raise UserError(f"unknown {self.kind} '{name}'{nearest(name, self.names())} Allowed: {listing(self.names())}.")
            module = next(module for prefix, module in self.guests.items() if name.startswith(prefix))
            self._entries[name] = importlib.import_module(module).entry(name)
        return self._entries[name]

    def build(self, section: Section) -> Callable[..., Any]:
        """Return the entry that a section selects with the section's options filled in; call it with the supplied arguments."""
        return partial(self.get(section.type), **section.arguments())

    def _fill(self) -> None:
        if self._filled:
            return
        for package in self.packages:
            module = importlib.import_module(package)
            for submodule in pkgutil.iter_modules(getattr(module, "__path__", [])):
                importlib.import_module(f"{package}.{submodule.name}")
        self._filled = True


def _module_of(entry: Callable[..., Any]) -> str:
    return str(getattr(entry, "func", entry).__module__)


RELAXATIONS = Registry("relaxation", "sr_nas.search.alpha", supplied=("logits", "draw", "picks"))
PERTURBATIONS = Registry("perturbation", "sr_nas.search.perturbation", supplied=("weights", "loss", "draw"))
REGULARIZERS = Registry("regularizer", "sr_nas.search.objective", supplied=("alpha",))
SCHEDULES = Registry("schedule", "sr_nas.search.objective", supplied=("epoch", "epochs"))
SELECTIONS = Registry(
    "selection", "sr_nas.search.searcher sr_nas.search.decoding sr_nas.search.selection", supplied=("searcher",)
)
STOPS = Registry("criterion to stop", "sr_nas.search.stopping", supplied=("searcher",))
SPACES = Registry("search space", "sr_nas.spaces", supplied=("scale",))
# A new space may bring its network in its own file.
GUESTS = {"basicsr.": "sr_nas.bridge.basicsr", "spandrel.": "sr_nas.bridge.guests"}
NETWORKS = Registry("network", "sr_nas.networks sr_nas.spaces", supplied=("scale",), guests=GUESTS)
CLASSIFICATION_SPACES = Registry("search space of classification", "sr_nas.classification", supplied=("num_classes",))
CLASSIFIERS = Registry("classifier", "sr_nas.classification", supplied=("num_classes",))
COSTS = Registry("cost", "sr_nas.complexity.costs")
OPTIMIZERS = Registry("optimizer", "sr_nas.optim", supplied=("parameters",))
LR_SCHEDULES = Registry("scheduler", "sr_nas.optim", supplied=("optimizer", "total"))
LOSSES = Registry("loss", "sr_nas.losses", supplied=("output", "target"))
CLASSIFICATION_LOSSES = Registry("classification loss", "sr_nas.classification.task", supplied=("output", "target"))
LABELLED = Registry("set of labelled images", "sr_nas.classification.datasets", supplied=("part",))
DEGRADATIONS = Registry("degradation", "sr_nas.data.degradation", supplied=("image", "random", "size"))
PAIRS = Registry("data set", "sr_nas.data.sources", supplied=("scale",))

TASKS: Mapping[str, str] = {
    "super-resolution": "sr_nas.super_resolution:SuperResolution",
    "classification": "sr_nas.classification.task:Classification",
}
"""``task`` of an option file -> its :class:`sr_nas.task.Task`, imported when first asked for (:func:`sr_nas.task.find_task`)."""

PLUGINS: dict[str, bytes] = {}
"""Absolute path of every plug-in that this process has loaded -> its content then."""


def load_plugin(file: str | Path) -> None:
    """Run a plug-in, a Python file that registers what it likes but costs and tasks; one content runs once, wherever it lies.

    Raises:
        UserError: there is no such file, or an error in it, which the message gives with its line.
    """
    path = Path(file).absolute()
    if str(path) in PLUGINS:
        return
    if path.suffix != ".py" or not path.is_file():
        raise UserError(f"plug-in {path} {absent(path) if path.suffix == '.py' else 'has no name that ends in .py'}.")
    known, content = set(PLUGINS.values()), path.read_bytes()
    PLUGINS[str(path)] = content
    if content in known:
        return
    module = ModuleType(f"sr_nas_plugins.{path.stem}_{hashlib.sha256(content).hexdigest()[:12]}")
    module.__file__, sys.modules[module.__name__] = str(path), module
    try:
        exec(compile(content, str(path), "exec", dont_inherit=True), vars(module))
        if costs := [name for name, entry in COSTS._entries.items() if _module_of(entry) == module.__name__]:
            raise UserError(f"the cost {costs[0]} would be new keys of option files, which no plug-in can add.")
    except (Exception, SystemExit) as error:  # whatever a file of the user's raises
        text = error_in_plugin(error) or f"{path}: {error}"
        del PLUGINS[str(path)], sys.modules[module.__name__]
        raise UserError(text) from error


def error_in_plugin(error: BaseException) -> str:
    """Return file, line and message of an error that was raised in a plug-in, or below it; ``""`` for any other."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename in PLUGINS]
    if isinstance(error, SyntaxError) and error.filename in PLUGINS:
        return f"{error.filename}, line {error.lineno}: {error.msg}"
    return f"{frames[-1].filename}, line {frames[-1].lineno}: {type(error).__name__}: {first_line(error)}" if frames else ""
