"""Tables and result files of analyses: the terminal, Markdown, LaTeX, CSV, JSON, and the folder that they lie in."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from rich import box
from rich.console import Console
from rich.table import Table as RichTable

from sr_nas.errors import UserError
from sr_nas.runs.files import holds_nothing, write_json, write_text
from sr_nas.runs.run_dir import new_run

Row = Mapping[str, str]
"""heading -> text; all rows of a table have the same headings."""
LATEX = str.maketrans(
    {character: f"\\{character}" for character in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "\n": " "}
    | {"<": "$<$", ">": "$>$", "|": r"\textbar{}"}
)
"""Character -> what stands for it in LaTeX."""


@dataclass(frozen=True)
class Table:
    """A table of texts, of at least one row; its first column names what the row is about."""

    rows: Sequence[Row]
    title: str = ""
    format: ClassVar[str] = "text"
    """What :meth:`print` prints: text, markdown or latex; ``--format`` sets it for all tables of a command."""

    def print(self, console: Console) -> None:
        """Show it in the terminal, row by row where it is too wide for one; in a file it is as wide as it needs."""
        if self.format != "text":
            print(self.latex() if self.format == "latex" else f"**{self.title}**\n\n" * bool(self.title) + self.markdown() + "\n")
            return
        table = RichTable(title=self.title or None, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
        for number, heading in enumerate(self.rows[0]):
            table.add_column(heading, justify="right" if number else "left", overflow="fold", no_wrap=number == 0)
        for row in self.rows:
            table.add_row(*row.values())
        need = console.measure(table, options=console.options.update(max_width=10_000))
        if not console.is_terminal:
            console.width = max(console.width, need.maximum)
        if need.minimum <= console.width:
            console.print(table)
            return
        for row in self.rows:
            console.print("  ".join(f"{heading} {text}" for heading, text in row.items()), highlight=False, markup=False)

    def markdown(self) -> str:
        """Return it in Markdown."""
        headings = list(self.rows[0])
        lines = [headings, ["---", *["---:"] * (len(headings) - 1)], *(list(row.values()) for row in self.rows)]
        return "\n".join(
            "| " + " | ".join(cell.replace("|", "\\|").replace("\n", "<br>") for cell in line) + " |" for line in lines
        )

    def latex(self) -> str:
        """Return it in LaTeX, with the rules of the package booktabs; the title is a comment."""
        cells = [list(self.rows[0]), *(list(row.values()) for row in self.rows)]
        head, *rows = (" & ".join(cell.translate(LATEX) for cell in line) + r" \\" for line in cells)
        columns = "l" + "r" * (len(self.rows[0]) - 1)
        lines = [f"\\begin{{tabular}}{{{columns}}}", r"\toprule", head, r"\midrule", *rows, r"\bottomrule", r"\end{tabular}", ""]
        return "\n".join([f"% {self.title}"] * bool(self.title) + lines)


def remarks(console: Console) -> Console:
    """Return where to print what is no table: the console, or standard error where tables are for a document."""
    return console if Table.format == "text" else Console(stderr=True, markup=False, highlight=False)


@dataclass(frozen=True)
class Report:
    """What an analysis prints: a table, remarks below it, and the folder with all of it."""

    folder: Path
    rows: Sequence[Row]
    notes: Sequence[str] = ()

    def print(self, console: Console) -> None:
        """Show it in the terminal."""
        Table(self.rows).print(console)
        for text in [*self.notes, f"all of it {self.folder}"]:
            remarks(console).print(text, highlight=False, markup=False, soft_wrap=not console.is_terminal)


def check_output(folder: Path | None) -> None:
    """Raise UserError where a folder that the user named holds something already."""
    if folder is not None and folder.exists() and (not folder.is_dir() or not holds_nothing(folder)):
        raise UserError(f"-o {folder}: there is something already, and nothing is written over. Name a new folder.")


def open_output(folder: Path | None, name: str) -> Path:
    """Make and return the folder that the user named (see :func:`check_output`), or ``analyses/<name>``, numbered."""
    check_output(folder)
    if folder is None:
        return new_run(Path("analyses"), name)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write one line per row, under all headings that any row has; a missing value or NaN stays empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(heading for row in rows for heading in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: "" if value != value else value for key, value in row.items()} for row in rows)  # NaN != NaN
    write_text(path, text.getvalue())


def write_numbers(path: Path, content: Any) -> None:
    """Write JSON, which has no NaN and no infinity: both become null."""
    write_json(path, finite(content))


def finite(value: Any) -> Any:
    """Return nested dicts and lists with every NaN and infinity (the PSNR of equal images) replaced by ``None``."""
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
