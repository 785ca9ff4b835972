"""How names in option files find functions and classes.

A :class:`Registry` fills itself by importing every module of one package the first time it is asked, so adding an
entry is adding one decorated function or class in one file. Its keyword arguments *are* its options: their types,
defaults and bounds are read off its signature.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import typing
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, create_model, model_validator

from sr_nas.errors import UserError, listing, nearest

Entry = TypeVar("Entry", bound=Callable[..., Any])


class Registry(Generic[Entry]):
    """Names of one kind of thing.

    Args:
        kind: what the entries are, in the words of an error message (``"regularizer"``).
        package: dotted name of the module or package whose import registers the entries.
        supplied: parameters that the program supplies and an option file therefore never names.
        guests: beginning of names -> module whose function ``entry(name)`` makes the entry when it is first asked for: things
            of an optional package, which are not among :meth:`names`.
    """

    def __init__(self, kind: str, package: str, supplied: tuple[str, ...] = (), guests: Mapping[str, str] | None = None) -> None:
        self.kind = kind
        self.supplied = supplied
        self.guests = guests or {}
        self.package = package
        self._entries: dict[str, Entry] = {}
        self._guest_entries: dict[str, Entry] = {}
        self._settings: dict[tuple[str, type[BaseModel]], type[BaseModel]] = {}
        self._filled = False

    def register(self, name: str | None = None) -> Callable[[Entry], Entry]:
        """Decorate a function or class to enter it under ``name`` (default: its own name)."""

        def enter(entry: Entry) -> Entry:
            key = name or entry.__name__
            if self._entries.get(key, entry) is not entry:
                raise ValueError(f"{self.kind} '{key}' is registered twice")
            self._entries[key] = entry
            return entry

        return enter

    @contextmanager
    def lent(self, entries: Mapping[str, Entry]) -> Iterator[None]:
        """Within the block there are these entries too, where none of their name was."""
        self._fill()
        if taken := entries.keys() & self._entries.keys():
            raise ValueError(f"{self.kind} '{min(taken)}' is registered twice")
        self._entries |= entries
        try:
            yield
        finally:
            for name in entries:
                del self._entries[name]

    def _fill(self) -> None:
        if self._filled:
            return
        module = importlib.import_module(self.package)
        for found in pkgutil.iter_modules(getattr(module, "__path__", [])):
            importlib.import_module(f"{self.package}.{found.name}")
        self._filled = True

    def names(self) -> list[str]:
        """All names, ordered by module and then as they stand in it: whatever was imported first."""
        self._fill()
        return sorted(self._entries, key=lambda name: self._entries[name].__module__)

    def is_guest(self, name: Any) -> bool:
        """Whether a name is one of an optional package's."""
        return isinstance(name, str) and name.startswith(tuple(self.guests))

    def get(self, name: str) -> Entry:
        """Return the entry of ``name``.

        Raises:
            UserError: no such entry, the text names the nearest and all allowed ones; or a guest's package is missing.
        """
        self._fill()
        if self.is_guest(name):
            if name not in self._guest_entries:
                module = next(module for prefix, module in self.guests.items() if name.startswith(prefix))
                self._guest_entries[name] = importlib.import_module(module).entry(name)
            return self._guest_entries[name]
        if name not in self._entries:
            hint = nearest(name, self._entries)
            raise UserError(f"unknown {self.kind} '{name}'{hint} Allowed: {listing(self.names())}.")
        return self._entries[name]

    def settings(self, name: str, base: type[BaseModel]) -> type[BaseModel]:
        """Return a typed model of the options of ``name``: the fields of ``base`` plus the entry's own arguments.

        A static method ``check(**options)`` on the entry may raise :class:`ValueError` for combinations that its
        types cannot exclude; it runs as part of the validation.
        """
        entry = self.get(name)
        key = (name, base)
        if key not in self._settings:
            self._settings[key] = _settings_model(name, entry, base, self.supplied)
        return self._settings[key]


def _settings_model(name: str, entry: Callable[..., Any], base: type[BaseModel], supplied: tuple[str, ...]) -> type[BaseModel]:
    function = entry.__init__ if inspect.isclass(entry) else entry
    hints = typing.get_type_hints(function, include_extras=True)
    fields: dict[str, Any] = {"type": (typing.Literal[name], name)}
    for parameter in inspect.signature(function).parameters.values():
        if parameter.name != "self" and parameter.name not in supplied:
            default = ... if parameter.default is parameter.empty else parameter.default
            fields[parameter.name] = (hints[parameter.name], default)
    own = [field for field in fields if field != "type"]
    check = getattr(entry, "check", None)

    def run_check(self: BaseModel) -> BaseModel:
        if check is not None:
            check(**{field: getattr(self, field) for field in own})
        return self

    validators: dict[str, Any] = {"run_check": model_validator(mode="after")(run_check)}
    return create_model(
        f"{name}_{base.__name__}",
        __base__=base,
        __validators__=validators,
        __doc__=(inspect.getdoc(entry) or "").split("\n\n")[0],
        **fields,
    )


RELAXATIONS: Registry[Callable[..., Any]] = Registry("relaxation", "sr_nas.search.alpha", supplied=("logits", "draw"))
REGULARIZERS: Registry[Callable[..., Any]] = Registry("regularizer", "sr_nas.search.objective", supplied=("alpha",))
SCHEDULES: Registry[Callable[..., Any]] = Registry("schedule", "sr_nas.search.objective", supplied=("epoch",))
SPACES: Registry[Callable[..., Any]] = Registry("search space", "sr_nas.spaces", supplied=("scale",))
NETWORKS: Registry[Callable[..., Any]] = Registry(
    "network", "sr_nas.networks", supplied=("scale",), guests={"basicsr.": "sr_nas.bridge.basicsr"}
)
CLASSIFICATION_SPACES: Registry[Callable[..., Any]] = Registry(
    "search space of classification", "sr_nas.classification", supplied=("num_classes",)
)
CLASSIFIERS: Registry[Callable[..., Any]] = Registry("classifier", "sr_nas.classification", supplied=("num_classes",))
COSTS: Registry[Callable[..., Any]] = Registry("cost", "sr_nas.complexity.costs")
OPTIMIZERS: Registry[Callable[..., Any]] = Registry("optimizer", "sr_nas.optim", supplied=("parameters",))
LR_SCHEDULES: Registry[Callable[..., Any]] = Registry("scheduler", "sr_nas.optim", supplied=("optimizer", "total"))
LOSSES: Registry[Callable[..., Any]] = Registry("loss", "sr_nas.losses", supplied=("output", "target"))
CLASSIFICATION_LOSSES: Registry[Callable[..., Any]] = Registry(
    "classification loss", "sr_nas.classification.training", supplied=("output", "target")
)
LABELLED: Registry[Callable[..., Any]] = Registry("set of labelled images", "sr_nas.classification.datasets", supplied=("part",))
PAIRS: Registry[Callable[..., Any]] = Registry("data set", "sr_nas.data.sources", supplied=("scale",))
