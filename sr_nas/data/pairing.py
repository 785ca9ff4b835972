"""Which LR image belongs to which HR image, by their names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sr_nas.errors import UserError, listing


def naming_rules(filename_tmpl: str, scale: int) -> list[str]:
    """LR names to try for an HR name, as templates in which ``{}`` is the HR name without extension.

    BasicSR's ``filename_tmpl`` is the only rule where one is given; otherwise LR has the name of HR, or that name and
    ``x<scale>``, as DIV2K and the MATLAB versions of the benchmark sets have.
    """
    return [filename_tmpl] if filename_tmpl != "{}" else ["{}", "{}x" + str(scale)]


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


def match_names(hr: Sequence[str], lr: Sequence[str], rules: Sequence[str], hr_place: str, lr_place: str) -> list[str]:
    """Return the LR name of every HR name, by the first rule that pairs all names of both sides.

    Args:
        hr: HR names without extension.
        lr: LR names without extension.
        rules: templates from HR name to LR name, see :func:`naming_rules`.
        hr_place: where the HR images lie, for the message.
        lr_place: where the LR images lie, for the message.

    Raises:
        UserError: no rule pairs all; the text is a report of the rule that pairs most.
    """
    expected = {rule: [rule.format(name) for name in hr] for rule in rules}
    best = max(rules, key=lambda rule: len(set(expected[rule]) & set(lr)))
    for rule in rules:
        if set(expected[rule]) == set(lr):
            return expected[rule]
    without_lr = [name for name, wanted in zip(hr, expected[best], strict=True) if wanted not in set(lr)]
    without_hr = [name for name in lr if name not in set(expected[best])]
    lines = [
        "HR and LR images do not pair up.",
        f"  HR: {len(hr)} images in {hr_place}",
        f"  LR: {len(lr)} images in {lr_place}",
        f"  HR without LR: {len(without_lr)}" + (f" ({listing(without_lr, 10)})" if without_lr else ""),
        f"  LR without HR: {len(without_hr)}" + (f" ({listing(without_hr, 10)})" if without_hr else ""),
        "  names of LR tried, {} being the name of HR: " + ", ".join(f"'{rule}'" for rule in rules) + f"; counted by '{best}'",
        "Check that both are of the same set and scale, or set filename_tmpl to the names' pattern, such as '{}_lr'.",
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
