"""``report.html``: a page on a run, a sweep or a table, one file that needs no network; and the plots of a run while it runs."""

from __future__ import annotations

import base64
import hashlib
import json
import shlex
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import matplotlib
from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image as PILImage

from sr_nas.errors import UserError, parse_json, short
from sr_nas.genotype import Genotype
from sr_nas.options.load import read_yaml
from sr_nas.report.drawings import LOOKS, drawing_figure
from sr_nas.report.plots import (
    INK,
    beta_curves,
    beta_figure,
    budget_panels,
    curves_figure,
    front_figure,
    save,
    size_panels,
    training_panels,
)
from sr_nas.report.progress import DRAW, budgets, clarity, duration, genotype_text, macs, selection, stopped, truth
from sr_nas.runs.files import write_text
from sr_nas.runs.run_dir import HISTORY, OPTIONS, PROVENANCE, read_history

REPORT, FRONT, PICTURE = "report.html", "front.json", "comparison.png"
PAUSE, SHARE = 30.0, 0.01
"""Seconds between two reports of a run at least, and the share of its time that they may take."""
MOST, QUALITY = 1_200_000, 90
"""Characters that the crops of a page may take in lossless WebP, and the quality of crops that would take more."""
COLOURS = {INK: "ink", "#000000": "ink", "#555555": "soft", "#e6e6e6": "line", "#ffffff": "page"}
COLOURS |= {str(look["facecolor"]).lower(): name for name, look in LOOKS.items() if name in ("searched", "fixed")}
"""Colours of figures -> the variable of the page's style sheet that stands for them, which is another on a dark page."""

SVG = "{http://www.w3.org/2000/svg}"
ElementTree.register_namespace("", SVG[1:-1])
ElementTree.register_namespace("xlink", "http://www.w3.org/1999/xlink")


@dataclass(frozen=True)
class Section:
    """A part of a page, in the order of its fields; everything is text, which the page escapes, but for the figures.

    Attributes:
        pictures: files of :func:`sr_nas.report.plots.comparison_figure`, of which the first two crops get a slider.
        links: text -> address relative to the page.
        code: lines to copy.
    """

    heading: str
    text: Sequence[str] = ()
    pictures: Sequence[Path] = ()
    figures: Sequence[Figure] = ()
    rows: Sequence[Mapping[str, str]] = ()
    links: Mapping[str, str] | None = None
    code: Sequence[str] = ()
    folded: bool = False


def write_page(file: Path, title: str, lead: Sequence[str], sections: Iterable[Section]) -> None:
    """Write an HTML page, all or nothing: ``lead`` are its first paragraphs."""
    shown = [section for section in sections if any(vars(section)[name] for name in list(vars(section))[1:-1])]
    pictures = {path: crops_of(path) for section in shown for path in section.pictures}
    crops = {path: [(name, data_uri(image)) for name, image in images] for path, images in pictures.items()}
    if sum(len(uri) for images in crops.values() for _, uri in images) > MOST:
        crops = {path: [(name, data_uri(image, QUALITY)) for name, image in images] for path, images in pictures.items()}
        lead = [*lead, "The crops on this page are compressed; the files that they are from lie beside it and are not."]
    figures = {id(figure): as_svg(figure) for section in shown for figure in section.figures}
    page, policy = template()
    write_text(file, page.render(title=title, lead=lead, sections=shown, crops=crops, figures=figures, id=id, policy=policy))


@cache
def template() -> tuple[Template, str]:
    """Return the template of a page, and the hash of its script, the only one that the page lets a browser run."""
    source = Path(__file__).with_name("page.html").read_text(encoding="utf-8")
    script = source.partition("<script>")[2].partition("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(source), f"sha256-{digest}"


def crops_of(path: Path) -> list[tuple[str, PILImage.Image]]:
    """Return the crops of a comparison by title, each pixel once; the whole picture where it does not say where they are."""
    with PILImage.open(path) as picture:
        places = json.loads(getattr(picture, "text", {}).get("Description", "[]"))
        whole = picture.convert("RGB")
    return [
        (one["title"], (crop := whole.crop(one["box"])).resize([side // one["zoom"] for side in crop.size], 0)) for one in places
    ] or [(path.name, whole)]


def data_uri(image: PILImage.Image, quality: int | None = None) -> str:
    """Return an image as WebP in a data URI; without a ``quality`` nothing is lost."""
    stream = BytesIO()
    image.save(stream, "webp", lossless=quality is None, quality=quality or 100)
    return f"data:image/webp;base64,{base64.b64encode(stream.getvalue()).decode()}"


def as_svg(figure: Figure) -> list[Markup]:
    """Return the panels of a figure and its legend, each as an SVG element whose ink is that of the page around it.

    On a phone they stand below each other. A drawing, which has no axes, is one element of its natural size.
    """
    for axes in figure.axes:
        axes.tick_params(labelbottom=True, labelleft=True)
        axes.set_xlabel(axes.get_xlabel() or figure.get_supxlabel(), fontsize=9, color=INK)
    figure.set_layout_engine("none")  # every part is cut out by itself
    FigureCanvasAgg(figure)
    parts: list[Any] = [*figure.axes, *figure.legends]
    boxes = [part.get_tightbbox().transformed(figure.dpi_scale_trans.inverted()).padded(0.03) for part in parts]
    stream, height = BytesIO(), figure.get_figheight()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "sr_nas"}):
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    root = ElementTree.fromstring(stream.getvalue())
    groups = [group for group in root.findall(f"{SVG}g/{SVG}g") if group.get("id", "").startswith(("axes_", "legend_"))]
    groups[-1].extend(root.findall(f"{SVG}defs"))
    elements = []
    for part, box, group in zip(parts, boxes, groups, strict=True):
        kind = "legend" if part in figure.legends else "panel" if part.axison else "drawing"
        view = f"{72 * box.x0:.1f} {72 * (height - box.y1):.1f} {72 * box.width:.1f} {72 * box.height:.1f}"
        style = f"--width: {96 * box.width:.0f}px"
        element = ElementTree.Element(f"{SVG}svg", {"class": kind, "style": style, "viewBox": view, "role": "img"})
        element.append(group)
        svg = ElementTree.tostring(element, encoding="unicode")
        for colour, name in COLOURS.items():
            svg = svg.replace(f": {colour.lower()}", f": var(--{name})")
        elements.append(Markup(svg))
    return elements


class LiveReport:
    """The report of a run and its plots, written at most every :data:`PAUSE` seconds while it runs.

    Args:
        folder: of the run; ``None`` in all processes but the first, where nothing is written.
        model: supernet of a search, network of a training.
    """

    def __init__(self, folder: Path | None, model: Any) -> None:
        self.folder, self.model, self.due = folder, model, time.monotonic() + PAUSE

    def write_if_due(self) -> None:
        """Write them if the last time is long enough ago."""
        if time.monotonic() >= self.due:
            self.write()

    def write(self) -> None:
        """Write them now."""
        if self.folder is not None:
            started = time.monotonic()
            write_report(self.folder, self.model)
            self.due = (ended := time.monotonic()) + max(PAUSE, (ended - started) / SHARE)


def write_report(folder: Path, model: Any = None) -> None:
    """Draw ``plots/`` and ``report.html`` of a search or a training, finished or not, from what its folder holds.

    ``model`` is the supernet of a search; of a training the network, without which the report has no drawing of it.

    Raises:
        UserError: the folder is none of a run, or a file of it is damaged.
    """
    options = read_yaml(folder / OPTIONS)
    history = read_history(folder) if (folder / HISTORY).is_file() else []
    starts = parse_json((folder / PROVENANCE).read_bytes(), folder / PROVENANCE, halves="surrogateescape")
    search, scale = "search" in options, f" x{options['scale']}" if "scale" in options else ""
    lead = [f"Asked for: {_asked(options)}."]
    if not history:
        lead.append("Nothing has come out yet.")
    sections = (_search if search else _training)(folder, options, history, model, lead) if history else []
    same = ["sr-nas", "search" if search else "train", "-opt", str(folder / OPTIONS)]
    sections += again([starts[0]["command"], same], starts)
    sections.append(Section("All options", code=[(folder / OPTIONS).read_text(encoding="utf-8")], folded=True))
    kind = "search" if search else "training"
    write_page(folder / REPORT, f"{folder.name}: {kind} of {options['network_g']['type']}{scale}", lead, sections)


def again(commands: Iterable[Sequence[str]], starts: Sequence[Mapping[str, Any]]) -> list[Section]:
    """Return the sections with the commands, as lists of words, that do the same again, and the versions that did it.

    ``starts`` are those of :func:`sr_nas.runs.run_dir.provenance`.
    """
    lines = []
    for program, *words in commands:
        lines.append(shlex.join([*(["python", program] if program.endswith(".py") else [Path(program).name]), *words]))
    versions = {**starts[-1], **starts[-1].get("packages", {})}
    rows = [{"": key, "of the last start": str(value)} for key, value in versions.items() if isinstance(value, str | int)]
    text = f"Begun or resumed: {', '.join(str(start.get('started')) for start in starts)}."
    return [Section("Again", code=lines), Section("Versions", [text], rows=rows)]


def _asked(options: Mapping[str, Any]) -> str:
    data = options["datasets"]["train"]
    named, seed = data.get("name") or data.get("type"), f"seed {options.get('manual_seed', 0)}"
    scale = f" that upscales by {options['scale']}" if "scale" in options else ""
    if "search" not in options:
        return (
            f"a network {options['network_g']['type']}{scale}, {options['train']['total_iter']:,} iterations on {named}, {seed}"
        )
    section = options["search"]
    limits = [f"{name} {short(value)}" for name, value in (section.get("budget") or {}).items() if isinstance(value, int | float)]
    within = f" within {' and '.join(limits)}" if limits else ""
    return f"a network of the space {options['network_g']['type']}{scale}{within}, {section['epochs']} epochs on {named}, {seed}"


def _drawing(model: Any, genotype: Genotype) -> list[Figure]:
    """Return the drawing of a network as a list; an empty one of what does not describe itself, or has too many boxes."""
    with suppress(UserError):
        if diagrams := model.drawing(genotype) if hasattr(model, "drawing") else []:
            return [drawing_figure(diagrams, "", "")]
    return []


def _search(
    folder: Path, options: Mapping[str, Any], history: Sequence[Mapping[str, Any]], space: Any, lead: list[str]
) -> list[Section]:
    """Return the sections of a search, and add to the lead what came out; its plots are saved."""
    last, choices, epochs = history[-1], space.choices(), options["search"]["epochs"]
    ended = last["epoch"] >= epochs or "stopped" in last
    facts = [genotype_text(last), f"{last['params']:,} parameters" if "params" in last else ""]
    facts += [f"{name} {text}" for name, text in (macs(last, 2) | truth(last) | budgets(last)).items()]
    rows = clarity(history, choices)
    draws = sum(row[-1] == "a draw" for row in rows)
    facts += [*selection(last), *stopped(last), f"it took {duration(sum(record['seconds'] for record in history))}"]
    head = "Came out" if ended else f"Not ended yet, after epoch {last['epoch']} of {epochs}"
    lead.append(f"{head}: {'; '.join(filter(None, facts))}.")
    undecided = f"{draws} of {len(rows)} choices are draws: they lead by less than {DRAW:.0%} of an even share." if draws else ""
    names = ("choice", "kept", "beta", "lead", "even share", "")
    at = [record["epoch"] for record in history]
    figures = {
        "curves": curves_figure("epoch", at, size_panels(history)),
        "beta": beta_figure(beta_curves(history, {label: choice.candidates for label, choice in choices.items()})),
    }
    if "budget" in last:
        panels = budget_panels(history)
        figures["budget"] = curves_figure("epoch", at, panels, {title: {"budget": 1.0} for title in list(panels)[:-1]})
    if (folder / FRONT).is_file():
        front = parse_json((folder / FRONT).read_bytes(), folder / FRONT)
        points = [(network[front["cost"]], network["log_beta"]) for network in front["networks"]]
        figures["front"] = front_figure(front["cost"], points, last.get("budget", {}).get(front["cost"], {}).get("limit"))
    _save(folder, figures)
    drawn = _drawing(space, Genotype.from_json(last["genotype"]))
    table = [dict(zip(names, row, strict=True)) for row in rows]
    explained = "Beta is the weight of a candidate (of several kept, the weakest), the lead what the best one dropped has less."
    parts = {
        "budget": ("Budget and cost", "Costs over the budget, 1 where it is met; the multiplier is the pull towards it."),
        "curves": ("Curves", "Loss of the two halves of the data, and the size of the network that alpha prefers."),
        "beta": ("Candidates", "Weight of each candidate by choice; the kept ones are bold."),
        "front": ("Front", "The best network for each budget by this search; front.json names them."),
    }
    return [
        Section("Genotype", list(filter(None, [explained, undecided])), figures=drawn, rows=table),
        *(Section(heading, [text], figures=[figures[name]]) for name, (heading, text) in parts.items() if name in figures),
    ]


def _training(
    folder: Path, options: Mapping[str, Any], history: Sequence[Mapping[str, Any]], network: Any, lead: list[str]
) -> list[Section]:
    """Return the sections of a training, and add to the lead what came out; its plots are saved."""
    last, total = history[-1], options["train"]["total_iter"]
    sets = list(last.get("val", {}))
    metric = next(iter(last["val"][sets[0]])) if sets else ""
    best = max(history, key=lambda record: record["val"][sets[0]][metric]) if sets else last
    rows, facts = [], []
    for name in sets:
        scores = {key: value for key, value in best["val"][name].items() if isinstance(value, float)}
        bicubic = best["val"][name].get("bicubic", {})
        facts.append(f"{name} {scores[metric]:.3f}" + (f" (bicubic {bicubic[metric]:.3f})" if bicubic else ""))
        rows.append(
            {"set": name}
            | {key: f"{value:.4f}" for key, value in scores.items()}
            | {f"{key} of bicubic": f"{value:.4f}" for key, value in bicubic.items()}
        )
    done = last["iteration"] >= total
    head = "Came out" if done else f"Not ended yet, after iteration {last['iteration']:,} of {total:,}"
    text = f"the best network, of iteration {best['iteration']:,}, has {metric} {', '.join(facts)}" if sets else "no validation"
    size = f"; {sum(weight.numel() for weight in network.parameters()):,} parameters" if network is not None else ""
    lead.append(f"{head}: {text}{size}.")
    figure = curves_figure("iteration", [record["iteration"] for record in history], *training_panels(history))
    _save(folder, {"curves": figure})
    drawn = [] if network is None else _drawing(network, network.genotype)
    picture = [folder / PICTURE] if (folder / PICTURE).is_file() else []
    slide = "Where the network gains most over bicubic; move the line. Right or below: the original."
    return [
        Section("Before and after", [slide] if picture else [], pictures=picture),
        Section("Scores", rows=rows),
        Section("Curves", figures=[figure]),
        Section("Network", [str(network.genotype)] if drawn and network.genotype.picks else [], figures=drawn),
    ]


def _save(folder: Path, figures: Mapping[str, Figure]) -> None:
    for name, figure in figures.items():
        save(figure, folder / "plots" / f"{name}.png")
