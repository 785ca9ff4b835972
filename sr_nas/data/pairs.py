"""Pairs of low- and high-resolution images, and their pairing by file names."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sr_nas.errors import UserError, listing
from sr_nas.images.resize import downscale, modcrop

Image = NDArray[np.uint8]

_META_INFO_LINE = re.compile(r"(.*\S)\.\w+(?: \((\d+),(\d+),\d+\)(?: \d+)?)?")


@dataclass(frozen=True)
class Pairs:
    """An ordered set of image pairs, read when asked for. It can be pickled if its readers can.

    Attributes:
        names: one name per pair, without folder and extension.
        scale: HR pixels per LR pixel and side.
        read_hr: index -> HR image as stored, uint8 [H, W, 3], RGB.
        read_lr: index -> LR image, uint8 [H // scale, W // scale, 3], RGB; ``None`` makes LR from HR.
        files: ``(HR, LR)`` of every pair as error messages name them; by default its name for both.
        mapped: the readers return files mapped into memory, so that keeping images wins nothing.
    """

    names: list[str]
    scale: int
    read_hr: Callable[[int], Image]
    read_lr: Callable[[int], Image] | None = None
    files: Sequence[tuple[str, str]] = ()
    mapped: bool = False
    _hr_sizes: dict[int, tuple[int, int]] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.names)

    def hr(self, index: int) -> Image:
        """HR image cropped to a multiple of the scale, uint8 [H, W, 3], RGB, 0..255.

        Raises:
            UserError: it cannot be read, or has fewer pixels than one LR pixel covers.
        """
        image = self.read_hr(index)
        if min(image.shape[:2]) < self.scale:
            raise UserError(f"{self.labels(index)[0]} has {pixels(image.shape)}: too small for scale {self.scale}.")
        image = modcrop(image, self.scale)
        self._hr_sizes[index] = (image.shape[0], image.shape[1])
        return image

    def lr(self, index: int) -> Image:
        """LR image, uint8 [H / scale, W / scale, 3], RGB, 0..255.

        Raises:
            UserError: it cannot be read, or its size is not that of HR divided by the scale.
        """
        if self.read_lr is None:
            return downscale(self.hr(index), self.scale)
        image = self.read_lr(index)
        # HR is decoded for its size alone only if nobody asked for it before.
        height, width = self._hr_sizes[index] if index in self._hr_sizes else self.hr(index).shape[:2]
        expected = (height // self.scale, width // self.scale)
        if image.shape[:2] != expected:
            hr_label, lr_label = self.labels(index)
            raise UserError(
                f"LR {lr_label} has {pixels(image.shape)}, HR {hr_label} has {pixels((height, width))} "
                f"after cropping to a multiple of the scale: at scale {self.scale} LR must have {pixels(expected)}. "
                "Check the scale, and that HR and LR are of the same set."
            )
        return image

    def labels(self, index: int) -> tuple[str, str]:
        """Names of the HR and LR image in messages."""
        return self.files[index] if self.files else (self.names[index], self.names[index])


def pixels(shape: Sequence[int]) -> str:
    """Return ``"WIDTHxHEIGHT pixels"`` for an array shape that begins with height and width."""
    return f"{shape[1]}x{shape[0]} pixels"


def naming_rules(filename_tmpl: str, scale: int) -> list[str]:
    """Return templates of LR names, ``{}`` being the HR name: ``filename_tmpl``, or by default DIV2K's ``{}x2`` as well."""
    return [filename_tmpl] if filename_tmpl != "{}" else ["{}", "{}x" + str(scale)]


def check_template(template: str) -> str:
    """Return ``template`` if it holds ``{}`` exactly once and no other brace; otherwise a ValueError is raised."""
    if template.count("{}") != 1 or set(template.replace("{}", "")) & set("{}"):
        raise ValueError(f"'{template}' must hold {{}} once, for the name of HR without extension (such as '{{}}_lr')")
    return template


def common_scale(names: Iterable[str]) -> int | None:
    """Return the scale that all names end in, as those of DIV2K's LR images do (``0001x2``), if there is one."""
    ends = {parsed[1] if (parsed := re.fullmatch(r".+x([2-9]|1[0-6])", name)) else None for name in names}
    end = ends.pop() if len(ends) == 1 else None
    return int(end) if end else None


def by_stem(files: Sequence[Path]) -> dict[str, Path]:
    """Return name without extension -> file, in the order of ``files``.

    Raises:
        UserError: two files share a name.
    """
    named: dict[str, Path] = {}
    for file in files:
        if (other := named.setdefault(file.stem, file)) is not file:
            raise UserError(
                f"{other} and {file} have the same name but for the extension, and pairs are told apart by name. "
                "Remove or rename one."
            )
    return named


class Pairing(NamedTuple):
    """HR and LR names paired by a naming rule, and the names on either side that it leaves without a partner."""

    rule: str
    lr_of: dict[str, str]
    without_lr: list[str]
    without_hr: list[str]


def pair_up(hr: Sequence[str], lr: Sequence[str], rules: Sequence[str]) -> Pairing:
    """Pair names by the rule that pairs most of them; among equals, by the first."""
    lr_names = set(lr)
    rule = max(rules, key=lambda rule: len({rule.format(name) for name in hr} & lr_names))
    lr_of = {name: rule.format(name) for name in hr if rule.format(name) in lr_names}
    unpaired_lr = lr_names - set(lr_of.values())
    return Pairing(rule, lr_of, [name for name in hr if name not in lr_of], [name for name in lr if name in unpaired_lr])


def match_names(
    hr: Sequence[str], lr: Sequence[str], rules: Sequence[str], hr_folder: str, lr_folder: str, remedy: str = ""
) -> list[str]:
    """Return the LR name of every HR name, by the first rule that pairs all names of both sides.

    Folders and ``remedy``, a further piece of advice, are for the message alone.

    Raises:
        UserError: no rule pairs all; the text is a report of the rule that pairs most.
    """
    pairing = pair_up(hr, lr, rules)
    without_lr, without_hr = pairing.without_lr, pairing.without_hr
    if not without_lr and not without_hr:
        return [pairing.lr_of[name] for name in hr]
    tried = ", ".join(f"'{rule}'" for rule in rules)
    lines = [
        "HR and LR images do not pair up.",
        f"  HR: {len(hr)} images in {hr_folder}",
        f"  LR: {len(lr)} images in {lr_folder}",
        f"  HR without LR: {len(without_lr)}" + (f" ({listing(without_lr, 10)})" if without_lr else ""),
        f"  LR without HR: {len(without_hr)}" + (f" ({listing(without_hr, 10)})" if without_hr else ""),
        f"  names of LR tried, {{}} being the name of HR: {tried}; counted by '{pairing.rule}'",
        f"Check that both are of the same set and scale{remedy}.",
    ]
    raise UserError("\n".join(lines))


def read_meta_info(file: Path, strip_folders: bool = True) -> dict[str, tuple[int, int] | None]:
    """Read BasicSR's list of images, one a line: ``0001_s001.png (480,480,3)``, in LMDB followed by the PNG compression.

    Returns:
        Name without extension, and without folders if ``strip_folders`` -> height and width, or ``None`` without them.

    Raises:
        UserError: the file cannot be read, a line is of another form, or a name is there twice.
    """
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"the list {file} cannot be read: {error}.") from error
    sizes: dict[str, tuple[int, int] | None] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        parsed = _META_INFO_LINE.fullmatch(line.rstrip())
        if parsed is None:
            raise UserError(f"{file}, line {number}: '{line}' is not of the form '0001_s001.png (480,480,3)'.")
        name = PurePosixPath(parsed[1]).name if strip_folders else parsed[1]
        if name in sizes:
            raise UserError(f"{file}, line {number}: '{name}' is listed twice.")
        sizes[name] = (int(parsed[2]), int(parsed[3])) if parsed[2] else None
    return sizes
