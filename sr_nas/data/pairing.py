"""Which LR image belongs to which HR image, by their names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sr_nas.errors import UserError, listing


def naming_rules(filename_tmpl: str, scale: int) -> list[str]:
    """LR names to try for an HR name, as templates in which ``{}`` is the HR name without extension.

    BasicSR's ``filename_tmpl`` is the only rule where one is given; otherwise LR has the name of HR, or that name and
    ``x<scale>``, as DIV2K and the MATLAB versions of the benchmark sets have.
    """
    return [filename_tmpl] if filename_tmpl != "{}" else ["{}", "{}x" + str(scale)]


def common_scale(names: Iterable[str]) -> int | None:
    """Return the scale that all these names end in as DIV2K's LR images do (``0001x2``), if there is one."""
    ends = {parsed[1] if (parsed := re.fullmatch(r".+x([2-9]|1[0-6])", name)) else None for name in names}
    end = ends.pop() if len(ends) == 1 else None
    return int(end) if end else None


def by_stem(files: Sequence[Path]) -> dict[str, Path]:
    """Return name without extension -> file, in the order given.

    Raises:
        UserError: two files share a name.
    """
    found: dict[str, Path] = {}
    for file in files:
        if file.stem in found:
            raise UserError(
                f"{found[file.stem]} and {file} have the same name but for the extension, and pairs are told apart by name. "
                "Remove or rename one."
            )
        found[file.stem] = file
    return found


@dataclass(frozen=True)
class Pairing:
    """Which names belong together.

    Attributes:
        rule: the template by which they do, see :func:`naming_rules`.
        lr_of: HR name -> LR name, of those that have one.
        without_lr: HR names that have none.
        without_hr: LR names that no HR name has.
    """

    rule: str
    lr_of: dict[str, str]
    without_lr: list[str]
    without_hr: list[str]


def pair_up(hr: Sequence[str], lr: Sequence[str], rules: Sequence[str]) -> Pairing:
    """Pair names by the rule that pairs most of them, the first of those that pair equally many."""
    known = set(lr)
    rule = max(rules, key=lambda rule: len({rule.format(name) for name in hr} & known))
    lr_of = {name: rule.format(name) for name in hr if rule.format(name) in known}
    taken = set(lr_of.values())
    return Pairing(rule, lr_of, [name for name in hr if name not in lr_of], [name for name in lr if name not in taken])


def match_names(
    hr: Sequence[str], lr: Sequence[str], rules: Sequence[str], hr_place: str, lr_place: str, remedy: str = ""
) -> list[str]:
    """Return the LR name of every HR name, by the first rule that pairs all names of both sides.

    Args:
        hr: HR names without extension.
        lr: LR names without extension.
        rules: templates from HR name to LR name, see :func:`naming_rules`.
        hr_place: where the HR images lie, for the message.
        lr_place: where the LR images lie, for the message.
        remedy: what else may be done, for the message.

    Raises:
        UserError: no rule pairs all; the text is a report of the rule that pairs most.
    """
    pairing = pair_up(hr, lr, rules)
    without_lr, without_hr = pairing.without_lr, pairing.without_hr
    if not without_lr and not without_hr:
        return [pairing.lr_of[name] for name in hr]
    lines = [
        "HR and LR images do not pair up.",
        f"  HR: {len(hr)} images in {hr_place}",
        f"  LR: {len(lr)} images in {lr_place}",
        f"  HR without LR: {len(without_lr)}" + (f" ({listing(without_lr, 10)})" if without_lr else ""),
        f"  LR without HR: {len(without_hr)}" + (f" ({listing(without_hr, 10)})" if without_hr else ""),
        "  names of LR tried, {} being the name of HR: "
        + ", ".join(f"'{rule}'" for rule in rules)
        + f"; counted by '{pairing.rule}'",
        f"Check that both are of the same set and scale{remedy}.",
    ]
    raise UserError("\n".join(lines))


def check_template(template: str) -> str:
    """Return ``template`` if it is a naming rule.

    Raises:
        ValueError: it does not hold ``{}`` exactly once, or another brace.
    """
    if template.count("{}") != 1 or set(template.replace("{}", "")) & set("{}"):
        raise ValueError(f"'{template}' must hold {{}} once, for the name of HR without extension (such as '{{}}_lr')")
    return template
