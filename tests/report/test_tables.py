"""Tables for documents: Markdown and LaTeX, by --format of every command that prints one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from rich.console import Console

from sr_nas.cli import main
from sr_nas.report.tables import Report, Table

ROWS = [{"method": "sa_darts 100%", "dB": "37.1 ± 0.2"}, {"method": "a & b\n{c}", "dB": "<1|2~#$^\\"}]
ESCAPES = {
    r"\textbackslash{}": "\\",
    r"\textasciitilde{}": "~",
    r"\textasciicircum{}": "^",
    r"$\pm$": "±",
    "$<$": "<",
    r"\textbar{}": "|",
}


def test_latex_reads_back() -> None:
    lines = Table(ROWS, "scores").latex().splitlines()
    assert lines[:3] == ["% scores", r"\begin{tabular}{lr}", r"\toprule"] and lines[4] == r"\midrule"
    assert lines[-2:] == [r"\bottomrule", r"\end{tabular}"]
    cells = []
    for line in [lines[3], *lines[5:-2]]:
        assert line.endswith(r" \\")
        texts = []
        for cell in line.removesuffix(r" \\").split(" & "):
            for written, character in ESCAPES.items():
                cell = cell.replace(written, character)
            assert not re.search(r"(?<!\\)[&%$#_{}]", cell), f"{cell} has a character that LaTeX takes for its own"
            texts.append(re.sub(r"\\([&%$#_{}])", r"\1", cell))
        cells.append(texts)
    assert cells == [["method", "dB"], *([text.replace("\n", " ") for text in row.values()] for row in ROWS)]


KINDS = {"text": " method", "markdown": "| method | dB |", "latex": r"\begin{tabular}{lr}"}


@pytest.mark.parametrize("kind", KINDS)
def test_for_a_document_standard_output_has_the_table_alone(
    kind: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Table, "format", kind)
    Report(Path("here"), [{"method": "m", "dB": "1"}], ["a note"]).print(Console(width=100))
    printed, notes = capsys.readouterr(), "a note\nall of it here\n"
    assert any(line.startswith(KINDS[kind]) for line in printed.out.splitlines())
    assert (notes in printed.out, notes in printed.err) == (kind == "text", kind != "text")


def test_a_command_prints_what_it_is_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for kind, begin in (("latex", r"\begin{tabular}"), ("markdown", "| term |"), ("text", "\n")):
        output = tmp_path / kind
        assert main(["analyze", "shapes", "-o", str(output), *(["--format", kind] if kind != "text" else [])]) == 0
        out = capsys.readouterr().out
        assert out.startswith(begin) or kind == "text", out
        assert (str(output) in out.replace("\n", "")) == (kind == "text")
