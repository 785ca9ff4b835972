"""Choices of a search space, and genotypes: the candidates that a search selected for every choice."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sr_nas.errors import UserError, absent, listing, nearest, parse_json, shortened

NETWORK_BLOCK = "network_g.yml"
"""File of a search's folder: the option block of the network that it has selected."""
WIDTH = "width"
"""Label of a choice of feature channels, whose candidates are numbers: what other candidates cost depends on it."""
JOINT = "+"
"""Separator of the names of one choice that keeps several, where a genotype is written as text."""


@dataclass(frozen=True)
class Choice:
    """One labelled decision of a search space.

    Attributes:
        candidates: names to choose from; position i belongs to alpha[i].
        picks: how many of them the derived network keeps (1 for operations, 2 for two inputs of a cell).
        of: kind of the candidates. Regularisers act on operations; on inputs where an option file says so; not on widths.
    """

    candidates: tuple[str, ...]
    picks: int = 1
    of: Literal["operations", "inputs", "widths"] = "operations"


Choices = Mapping[str, Choice]
"""label -> choice, in the order of the space's labels."""


class GenotypeError(UserError, ValueError):
    """A genotype that its network cannot be built from."""


@dataclass(frozen=True)
class Genotype:
    """Result of a search: the network's registered name, and (label, selected names) in the order of the space's labels."""

    arch: str
    picks: tuple[tuple[str, tuple[str, ...]], ...]

    def __getitem__(self, label: str) -> tuple[str, ...]:
        return dict(self.picks)[label]

    def __str__(self) -> str:
        return f"{self.arch}({', '.join(JOINT.join(names) for _, names in self.picks)})" if self.picks else self.arch

    @property
    def names(self) -> list[str]:
        """The selected names, one per label; for spaces in which every choice keeps one candidate."""
        return [name for _, names in self.picks for name in names]

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Genotype:
        """Read back what :meth:`to_json` returned, unchecked."""
        picks = ((label, (names,) if isinstance(names, str) else tuple(names)) for label, names in content["genotype"].items())
        return cls(content["arch"], tuple(picks))

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready mapping; :meth:`from_json` reads it back, :func:`genotype_from` also checks it."""
        picks = {label: names[0] if len(names) == 1 else list(names) for label, names in self.picks}
        return {"arch": self.arch, "genotype": picks}


GenotypeLike = Genotype | Mapping[str, Any] | Sequence[str] | str
"""What :func:`genotype_from` takes: the type of a network's parameter ``genotype``. An option file may give a path instead."""


def genotype_from(source: Any, arch: str, choices: Choices) -> Genotype:
    """Check ``source`` against the choices of a network and return it as a :class:`Genotype`.

    Args:
        source: a :class:`Genotype`; a mapping label -> name(s); a sequence of names in the order of the labels; a
            string of such names separated by commas; or what :meth:`Genotype.to_json` returned. Several names of one
            label are a list, or a string such as ``"cell2+cell1"``; their order is kept.
        arch: registered name of the network.
        choices: those of the network.

    Raises:
        GenotypeError: another architecture, a missing or unknown label, a name that is not allowed there, or another
            number of different names than the choice keeps.
    """
    if isinstance(source, Genotype):
        source = source.to_json()
    if isinstance(source, Mapping) and "genotype" in source:
        if source.get("arch", arch) != arch:
            raise GenotypeError(f"this genotype is of {source['arch']}, not of {arch}.")
        source = source["genotype"]
    if isinstance(source, str) and "," not in source and len(choices) > 1:
        raise GenotypeError(
            f"{shortened(source)} is no folder of a search and no .json file, and as names of candidates a genotype of {arch} "
            f"has {len(choices)}, separated by commas: {listing(choices)}."
        )
    if isinstance(source, str):
        source = [name.strip() for name in source.split(",")]
    if isinstance(source, Mapping):
        for label in source:
            if label not in choices:
                raise GenotypeError(f"{arch} has no choice '{label}'{nearest(label, choices)} It has: {listing(choices)}.")
        missing = [label for label in choices if label not in source]
        if missing:
            raise GenotypeError(f"the genotype lacks {listing(missing)}; {arch} has the choices {listing(choices)}.")
        entries = [source[label] for label in choices]
    elif isinstance(source, Iterable):
        entries = list(source)
        if len(entries) != len(choices):
            raise GenotypeError(
                f"a genotype of {arch} names {len(choices)} candidates ({listing(choices)}), but {len(entries)} were given."
            )
    else:
        raise GenotypeError(f"a genotype is a list of names or a mapping of labels to names, not {source!r}.")
    pairs = zip(choices.items(), entries, strict=True)
    return Genotype(arch, tuple((label, _selected(entry, f"{arch}.{label}", choice)) for (label, choice), entry in pairs))


def _selected(entry: Any, where: str, choice: Choice) -> tuple[str, ...]:
    entry = [entry] if type(entry) is int else entry
    names = tuple(name.strip() for name in entry.split(JOINT)) if isinstance(entry, str) else entry
    if not isinstance(names, Iterable):
        raise GenotypeError(f"{where} is a name or a list of names, not {entry!r}.")
    names = tuple(str(name) if type(name) is int else name for name in names)  # a width, in YAML
    for name in names:
        if name not in choice.candidates:
            hint = nearest(str(name), choice.candidates)
            raise GenotypeError(f"'{name}' is not a candidate of {where}{hint} Allowed: {listing(choice.candidates)}.")
    if len(names) != choice.picks or len(set(names)) != choice.picks:
        expected = "one name" if choice.picks == 1 else f"{choice.picks} different names"
        raise GenotypeError(f"{where} keeps {expected} of {listing(choice.candidates)}; given: {listing(names) or 'none'}.")
    return names


def is_genotype_path(source: Any) -> bool:
    """Whether a genotype is given by a path (a folder, a ``.json`` file, anything with a slash) and not by names."""
    # Not Path.is_dir, which raises where a genotype's text is longer than a file name can be.
    return isinstance(source, (str, Path)) and (Path(source).suffix == ".json" or "/" in str(source) or os.path.isdir(source))


def read_genotype(source: Any) -> Any:
    """Read a genotype given by a path: a run folder, or a ``.json`` file. Anything else is returned unchanged.

    Raises:
        UserError: the path does not exist or holds no genotype.
    """
    if not is_genotype_path(source):
        return source
    path = Path(source)
    file = path / "genotype.json" if path.is_dir() else path
    if not file.is_file():
        raise UserError(f"{path} has no genotype.json: is its search finished?" if path.is_dir() else f"{path} {absent(path)}.")
    content = parse_json(file.read_bytes(), file)
    if not isinstance(content, (dict, list)) or (isinstance(content, dict) and not isinstance(content.get("arch", ""), str)):
        raise UserError(f"{file} holds no genotype: a mapping with 'arch' and 'genotype' is expected, not {shortened(content)}.")
    return content
