"""``sr-nas <command>`` and ``tools/<command>.py``: the arguments of every command, and their dispatch.

Nothing heavy is imported here, so that --help is quick. Each parser names its ``module``, whose ``main(args)`` runs the command:
``sr_nas.jobs.<command>`` unless it says otherwise.
"""

from __future__ import annotations

import importlib
import inspect
import io
import shutil
import signal
import sys
import textwrap
from argparse import ArgumentParser, ArgumentTypeError, RawDescriptionHelpFormatter, _ActionsContainer
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from sr_nas.errors import UserError, amount, is_out_of_memory, nearest, reason
from sr_nas.registry import error_in_plugin, load_plugin
from sr_nas.runs.files import keep_freed_memory, wait_briefly

MOST_SEEDS = 10_000
MODEL = "name that sr-nas models lists, exported file, run folder, weights that spandrel opens, or released weights with --arch"


def whole_number(text: str, least: int = 1) -> int:
    """Argparse type: a whole number of at least 1, or of another least."""
    if not text.isdecimal() or int(text) < least:
        raise ArgumentTypeError(f"'{text}' is not a whole number of at least {least}")
    return int(text)


def _quality(text: str) -> int:
    if whole_number(text) > 100:
        raise ArgumentTypeError(f"'{text}' is not from 1 to 100")
    return int(text)


def _share(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number < float("inf"):
        raise ArgumentTypeError(f"'{text}' is not a number of at least 0")
    return number


def seeds(text: str) -> list[int]:
    """Argparse type: ``0-9`` or ``0,3,5-7`` as a list of different seeds."""
    numbers: list[int] = []
    for part in text.split(","):
        first, dash, last = part.partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise ArgumentTypeError(f"'{text}' is not of the form 0-9 or 0,3,5")
        numbers += range(int(first), min(int(last or first), int(first) + MOST_SEEDS) + 1)
    if len(numbers) > MOST_SEEDS:
        raise ArgumentTypeError(f"'{text}' names more than {MOST_SEEDS} seeds")
    if not numbers or len(set(numbers)) < len(numbers):
        raise ArgumentTypeError(f"'{text}' names no seed, or one twice")
    return numbers


def amounts(text: str) -> list[float]:
    """Argparse type: ``5G,10G`` as a list of numbers above 0."""
    try:
        numbers = [amount(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or not all(0 < number < float("inf") for number in numbers):
        raise ArgumentTypeError(f"'{text}' is not of the form 5G,10G,150K")
    return numbers


def _size(text: str) -> tuple[int, int]:
    width, _, height = text.partition("x")
    if not (width.isdecimal() and height.isdecimal() and int(width) and int(height)):
        raise ArgumentTypeError(f"'{text}' is no size such as 320x180")
    return int(width), int(height)


def _tile_size(text: str) -> int | str | None:
    if text in ("auto", "whole"):
        return None if text == "whole" else text
    if not text.isdecimal() or int(text) < 1:
        raise ArgumentTypeError(f"'{text}' is neither auto nor whole nor a whole number of at least 1")
    return int(text)


def _option_file(parser: _ActionsContainer, example: str, required: bool = True) -> None:
    # The spelling is BasicSR's.
    parser.add_argument("-opt", "--opt", required=required, metavar="FILE", help="option file (YAML)")
    _overrides(parser, example)


def _overrides(parser: _ActionsContainer, example: str) -> None:
    text = f"override options, e.g. {example}"
    parser.add_argument("--force_yml", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help=text)


def _run(parser: ArgumentParser) -> None:
    """Add the arguments of commands that make a run."""
    _option_file(parser, "train:optim_g:lr=1e-4")
    parser.add_argument("--auto_resume", action="store_true", help="go on with the newest run of this name, where there is one")
    text = "stop after so many epochs of a search or iterations of a training, as Ctrl-C does; --auto_resume goes on"
    parser.add_argument("--until", type=whole_number, metavar="N", help=text)


def _released_weights(parser: ArgumentParser) -> None:
    """Add what a file of released weights does not say about its network."""
    parser.add_argument("--arch", help="architecture of released weights, e.g. imdn or dlsr")
    text = "genotype of released weights that do not contain one (default: the published)"
    parser.add_argument("--genotype", metavar="A,B,...|FILE", help=text)
    _plugin(parser)


def _format(parser: ArgumentParser) -> None:
    text = "how to print tables: for the terminal, or for a document (LaTeX with booktabs); all else then goes to standard error"
    parser.add_argument("--format", choices=("text", "markdown", "latex"), default="text", help=text)


def _plugin(parser: ArgumentParser) -> None:
    text = "Python file that registers the network's class; run folders and option files name their own"
    parser.add_argument("--plugin", action="append", default=[], type=Path, metavar="FILE.py", help=text)


def _device(parser: ArgumentParser, default: str | None = "auto") -> None:
    text = "device, as in option files (default: auto)"
    parser.add_argument("--num_gpu", choices=("auto", "0", "1"), default=default, help=text)
    text = "threads on the CPU (default: OMP_NUM_THREADS, else one for each core)"
    parser.add_argument("--num_threads", type=whole_number, metavar="N", help=text)


def _search(parser: ArgumentParser) -> None:
    """Search a network in the space that an option file names."""
    _run(parser)
    text = "print the best network of the search for each of these budgets, of its first one's cost, else of macs_hr"
    parser.add_argument("--front", type=amounts, default=(), metavar="5G,10G,...", help=text)


def _make(parser: ArgumentParser) -> None:
    """Make a network of a folder of photos: search within a budget, train, measure on photos kept out, export.

    It runs the other commands and prints each; stopped or killed at any moment, the same command goes on.
    """
    add = parser.add_argument
    add("--photos", required=True, type=Path, metavar="DIR", help="folder of photos, 4 at least; folders below are searched too")
    add("--scale", type=int, choices=(2, 3, 4), default=2, help="upscaling factor (default: 2)")
    text = "multiply-adds for an HR output of 1280x720 (10G), parameters (150K), or time for an LR image of 320x180 here (15ms)"
    add("--budget", required=True, metavar="10G|150K|15ms", help=text)
    add("--hours", type=_share, default=2.0, metavar="H", help="time for all of it, without interruptions (default: 2)")
    add(
        "-o", "--output", required=True, type=Path, metavar="FILE", help="network to write, .safetensors; .onnx and .md beside it"
    )
    add("--work", type=Path, metavar="DIR", help="folder of all that is made on the way (default: experiments/make_NAME of FILE)")
    add("--overwrite", action="store_true", help="replace FILE if it exists")


def _train(parser: ArgumentParser) -> None:
    """Train the network that an option file names, for instance one that a search has found."""
    _run(parser)


def _report(parser: ArgumentParser) -> None:
    """Write report.html and the plots of searches and trainings anew, into their folders; they need not have ended."""
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folder of a search or a training")


def _sweep(parser: ArgumentParser) -> None:
    """Run many searches or trainings, over a grid of options and several seeds, and compare them in one table.

    The trials lie in the folder NAME_sweep of the runs, with the table; started again, the command goes on. With the extra sweep
    they run on a Ray cluster, too.
    """
    parser.set_defaults(module="sr_nas.analysis.sweep")
    _option_file(parser, "train:total_iter=2000")
    add = parser.add_argument
    text = "option and its values, e.g. search:regularizer:nu=0,0.25,1; several are combined"
    add("--grid", nargs="+", action="extend", default=[], metavar="KEY=A,B,...", help=text)
    add("--seeds", type=seeds, metavar="0-4", help="seeds of every setting (default: the option file's)")
    text = "train the network of a finished search, and others that alpha prefers within its budget; FILE is of their training"
    add("--front", type=Path, metavar="RUN", help=text)
    add("--best", type=whole_number, metavar="N", help="with --front, number of the search's networks (default: 9)")
    text = "so many points of the grid, drawn at random; with --front, so many random networks of its costs and the hand-made one"
    add("--random", type=whole_number, metavar="N", help=text)
    text = "successive halving: begin with all, and let the best 1/N of the settings go on, for N times as long"
    add("--halving", type=partial(whole_number, least=2), metavar="N", help=text)
    text = "quantity that judges, e.g. Set5_psnr or psnr (default: loss_task of searches, the first score of trainings)"
    add("--by", metavar="QUANTITY", help=text)
    add("--show", nargs="+", default=[], metavar="QUANTITY", help="what to draw, e.g. cifar10_test gap_worst")
    add("--dry", action="store_true", help="list the trials and the hours that they would take, by a few steps of each setting")
    add("--jobs", type=whole_number, metavar="N", help="trials at a time (default: one per GPU, else per core)")
    text = "run them on Ray: auto for the cluster of this machine, an address, or local to start one here"
    add("--address", metavar="auto", help=text)
    add("--cores", type=whole_number, metavar="N", help="with --address, cores of each trial (default: 1)")
    text = "with --address, GPUs of each trial; a fraction shares one (default: 1 where the cluster has any, else 0)"
    add("--gpus", type=_share, metavar="N", help=text)
    _format(parser)


def _evaluate(parser: ArgumentParser) -> None:
    """Measure PSNR and SSIM by the protocol of the field's tables, beside bicubic.

    --model measures a model, image by image; given several times, each in a row of one table. -opt measures several models on
    several sets and writes a table; the same command goes on where it was stopped.
    """
    parser.set_defaults(module="sr_nas.analysis.evaluate")
    add = parser.add_argument
    table = parser.add_argument_group("a table of several models")
    _option_file(table, "datasets:Set5=DIR", required=False)
    table.add_argument("--save_images", action="store_true", help="keep every SR image, as the option save_images does")
    add("--model", action="append", help=MODEL)
    _released_weights(parser)
    add("--data", nargs="+", type=Path, metavar="DIR", help="sets, folders of HR images, or 'sample', the held-out sample photo")
    add("--lr", type=Path, metavar="DIR", help="folder of the LR images; by default the set's own, else made from HR")
    add("--jpeg", nargs="+", type=_quality, metavar="Q", help="measure also on LR images compressed as JPEG of quality Q")
    add("--scale", type=int, help="upscaling factor (default: the network's)")
    add("--tile", type=int, metavar="N", help="run the network in tiles of N x N LR pixels, as inference can")
    _device(parser, None)
    _format(parser)
    add("--json", action="store_true", help="print one JSON object on standard output")


def _analyze(parser: ArgumentParser) -> None:
    """Compare searches by the analyses of SA-DARTS.

    Each analysis draws PNGs and writes its numbers beside them, as JSON and CSV.
    RUN is the folder of a search; for gaps, curves and accuracies also the folder NAME_sweep of a sweep, for all of its
    searches. Searches that differ in their seeds alone are one method, drawn as mean and standard deviation.
    """
    jobs = parser.add_subparsers(dest="what", required=True, metavar="WHAT")

    def job(name: str, summary: str, runs: str | None = "+", module: str = "curves") -> ArgumentParser:
        sub = jobs.add_parser(name, help=summary, description=summary[0].upper() + summary[1:] + ".")
        sub.set_defaults(module=f"sr_nas.analysis.{module}")
        if runs:
            sub.add_argument("runs", nargs=None if runs == "1" else runs, type=Path, metavar="RUN", help="folder of a search")
        text = f"new folder to write to (default: analyses/{name}, numbered)"
        sub.add_argument("-o", "--output", type=Path, metavar="DIR", help=text)
        _format(sub)
        return sub

    gaps = job("gaps", "table 1: top-2 gap of beta on the choice where it is least, and when the network stops changing")
    gaps.add_argument("--edge", metavar="LABEL", help="compare all methods on this choice (default: each method's closest)")
    curves = job("curves", "figures 2 to 4: beta, alpha, gaps, skips, true accuracy or size over the epochs")
    curves.add_argument("--edge", metavar="LABEL", help="choice in beta.png (default: the first)")
    curves.add_argument("--operation", default="skip_connect", metavar="NAME", help="its share to draw (default: skip_connect)")
    accuracies = job("accuracies", "table 6: true accuracies of NAS-Bench-201, beside its best networks and ResNet")
    for sub in (gaps, curves, accuracies):
        sub.add_argument("--epoch", type=int, metavar="N", help="last epoch to look at (default: the last that all seeds have)")

    landscape = job("landscape", "figure 5: loss and accuracy over two random directions in alpha", module="landscape")
    landscape.add_argument("--grid", type=int, default=11, metavar="N", help="points along each direction, odd (default: 11)")
    landscape.add_argument("--radius", type=float, default=1.0, help="farthest step, in --normalise's unit (default: 1)")
    landscape.add_argument("--batches", type=int, default=2, metavar="N", help="batches of alpha's images (default: 2)")
    landscape.add_argument("--seed", type=int, default=0, help="seed of the directions (default: 0)")
    text = "length of a direction in each choice: alpha's own norm, or 1 (default: alpha)"
    landscape.add_argument("--normalise", choices=("alpha", "unit"), default="alpha", help=text)
    _overrides(landscape, "datasets:train:dataroot=DIR")

    job("shapes", "figure 9: the regularisers of alpha and their derivatives over one logit", None, "equations")
    equations = job("equations", "which of eq. 3 to 6 and 21 to 25 hold", None, "equations")
    equations.add_argument("--seed", type=int, default=0, help="of the random numbers that they are checked with (default: 0)")
    variances = job("variances", "eq. 3 to 5 and 15 to 17 on supernets: errors of candidates against alpha", module="equations")
    variances.add_argument("--batches", type=int, default=2, metavar="N", help="batches of alpha's images (default: 2)")
    _overrides(variances, "datasets:train:dataroot=DIR")

    ranks = job("ranks", "how well cheap predictors order the trained networks of the IMDN table", "*", "ranks")
    ranks.add_argument("--set", choices=("Set5", "Set14", "B100"), default="Set14", help="its PSNR is the truth (default: Set14)")
    ranks.add_argument("--batches", type=whole_number, default=8, metavar="N", help="for losses in a supernet (default: 8)")
    ranks.add_argument("--seed", type=int, default=0, help="of the initial weights that SynFlow sees (default: 0)")
    _overrides(ranks, "datasets:train:dataroot_gt=DIR")

    methods = job(
        "methods", "PSNR of searches by the IMDN table, beside chance and the published network by width", "+", "methods"
    )
    methods.add_argument("--set", choices=("Set5", "Set14", "B100"), default="Set14", help="whose PSNR (default: Set14)")

    replace = job("replace", "section 6.6: true accuracy when an edge's operation is replaced, in decreasing order of beta", "1")
    replace.add_argument("--edge", nargs="+", metavar="LABEL", help="edges, or 'all' (default: the first)")


def _complexity(parser: ArgumentParser) -> None:
    """Count a network's parameters and multiply-adds.

    Multiply-adds are fvcore's; of a super-resolution network in both conventions of the field.
    Name the network by --arch, a genotype and its settings; or by --model, for what a run, an export or an option file holds.
    --compare measures the networks of the SA-DARTS paper, and any others, in one table.
    """
    add = parser.add_argument
    parser.epilog = "Every other option is a setting of the network: --nf 48, --num_blocks 6 (IMDN), --num_cells 6 (DLSR)."
    network = parser.add_mutually_exclusive_group(required=True)
    network.add_argument("--arch", help="architecture, e.g. imdn, dlsr or nasbench201")
    kinds = "folder of a search or training, exported file, option file of a training, or genotype file"
    network.add_argument("--model", type=Path, metavar="PATH", help=kinds)
    text = f"a table of the paper's networks and of each {kinds}"
    network.add_argument("--compare", nargs="*", type=Path, metavar="PATH", help=text)
    text = "the cheapest and the dearest network of a search's space, by its option file"
    network.add_argument("--space", type=Path, metavar="FILE", help=text)
    add("--scale", type=int, choices=(2, 3, 4), help="upscaling factor (default: 4; of a genotype file: 2)")
    add("--latency", action="store_true", help="also time the network on this device, for an HR output of 1280x720")
    add("--num_classes", type=int, metavar="N", help="classes that a classifier tells apart (default: 10)")
    add("--genotype", metavar="A,B,...|FILE", help="names, a genotype file or a run folder; default: the published network")
    text = "NATS-Bench's or NAS-Bench-201's own file or folder to read true accuracies from; needs sr_nas[nasbench]"
    add("--official", type=Path, metavar="PATH", help=text)
    add("--draw", type=Path, metavar="FILE", help="also draw the network into a new .png or .svg file")
    add("--overwrite", action="store_true", help="replace the drawing if it exists")
    add("--json", action="store_true", help="print JSON")
    _format(parser)
    _plugin(parser)


def _export(parser: ArgumentParser) -> None:
    """Write a trained network as one self-describing file, as ONNX or for other tools; or a genotype as JSON.

    .safetensors and .pth open in sr_nas and, with its bridge, in spandrel; .pth in BasicSR too. .onnx and .pt2 (torch.export)
    take any batch, height and width, have BatchNorm folded, and are written only if they give what PyTorch gives; so is
    .param, ncnn's, for phones, whose weights lie in a .bin beside it.
    """
    add = parser.add_argument
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--run", metavar="DIR", type=Path, help="folder of a training; of a search for .json")
    source.add_argument("--model", metavar="FILE", type=Path, help=MODEL.replace("run folder, ", ""))
    _released_weights(parser)
    text = ".safetensors, .pth, .onnx, .pt2 or .param for the network; .json for its genotype alone"
    add("-o", "--output", required=True, metavar="FILE", type=Path, help=text)
    add("--last", action="store_true", help="the last network instead of the best")
    kind = parser.add_mutually_exclusive_group().add_argument
    text = "ONNX that computes in float16 between float32 input and output; .safetensors and ncnn: weights stored in float16"
    kind("--fp16", action="store_true", help=text)
    kind("--int8", action="store_true", help="ONNX whose convolutions compute in 8-bit integers, for CPUs, phones and browsers")
    add("--calibrate", metavar="DIR", type=Path, help="photos that tell --int8 the ranges of activations (default: the samples)")
    add("--data", metavar="DIR", type=Path, help="photos to measure its loss on (default: the held-out sample)")
    add("--max_loss", metavar="DB", type=_share, help="PSNR that --int8 may lose; more is refused (default: 0.2)")
    add("--no_card", action="store_true", help="no model card; else FILE.md is written beside the network")
    add("--license", metavar="NAME", help="license of the weights, for file and model card (default: not stated)")
    text = "what evaluate --model and complexity --latency printed with --json, for file and model card"
    add("--scores", nargs="+", action="extend", default=[], type=Path, metavar="FILE", help=text)
    add("--overwrite", action="store_true", help="replace the file and its model card if they exist")


def _latency(parser: ArgumentParser) -> None:
    """Measure the latency of a search space on this device: a table for the budget latency_ms of a search.

    Each candidate is timed in its place of a reference network, and random networks are timed to see how well the sums predict.
    """
    _option_file(parser, "network_g:nf=24")
    add = parser.add_argument
    add("-o", "--output", required=True, type=Path, metavar="FILE", help="table to write (.json); a plot is put beside it")
    text = "what runs the networks (default: torch, which folds BatchNorms as inference does)"
    add("--engine", choices=("torch", "onnxruntime"), default="torch", help=text)
    add("--lr", type=_size, default=(320, 180), metavar="WxH", help="size of the LR image (default: 320x180)")
    add("--threads", type=whole_number, metavar="N", help="threads of a CPU (default: PyTorch's)")
    add("--rounds", type=whole_number, default=30, metavar="N", help="times that each network is run (default: 30)")
    add("--networks", type=whole_number, default=30, metavar="N", help="random networks to check the table with (default: 30)")
    text = "cpu: time of all cores that this process uses, which other work distorts less, if --threads is 1 (default: wall)"
    add("--clock", choices=("wall", "cpu"), default="wall", help=text)
    add("--seed", type=int, default=0, help="of the random networks (default: 0)")
    add("--overwrite", action="store_true", help="replace the table if it exists")


def _inference(parser: ArgumentParser) -> None:
    """Upscale images: PNG, JPEG, WebP, BMP and TIFF; grey, RGB and RGBA; 8 and 16 bit stay what they are.

    Colour profile, EXIF and XMP are kept; the picture is turned upright. HEIC (pip install 'sr_nas[heic]') and AVIF become JPEG.
    """
    add = parser.add_argument
    add("-i", "--input", required=True, nargs="+", type=Path, metavar="FILE|DIR", help="images, or folders of images")
    add("-o", "--output", required=True, type=Path, metavar="DIR", help="folder for the upscaled images")
    add("--model", help=f"{MODEL} (default: the network x2, x3 or x4 of --scale)")
    add("--scale", type=int, choices=(2, 3, 4), help="upscaling factor (default: the model's, else 2)")
    _released_weights(parser)
    text = "auto: whole images where the memory suffices, else the largest tiles that fit; N: tiles of N x N LR pixels"
    add("--tile", type=_tile_size, default="auto", metavar="auto|whole|N", help=text)
    add("-r", "--recursive", action="store_true", help="take the folders below too, and keep them in the output")
    add("--outscale", type=float, metavar="S", help="resize to S times the input, by bicubic after the network")
    add("--ensemble", action="store_true", help="average over 8 flips and transpositions: about 0.1 dB for 8 times the time")
    add("--suffix", default="", metavar="S", help="put between name and extension, e.g. _x2")
    add("--quality", type=_quality, metavar="N", help="of JPEG, by default 95, and of WebP, by default lossless; 1 to 100")
    add("--overwrite", action="store_true", help="replace images that exist; by default they are kept")
    _device(parser)
    text = "auto: ONNX Runtime on a CPU where it is installed and there is much to upscale, else PyTorch (default: auto)"
    add("--engine", choices=("auto", "torch", "onnxruntime"), default="auto", help=text)
    text = "bf16 and fp16 are faster on a GPU and round more; the CPU has no fp16 (default: fp32)"
    add("--precision", choices=("fp32", "bf16", "fp16"), default="fp32", help=text)


def _models(parser: ArgumentParser) -> None:
    """List the networks that ship with sr_nas: size, scores, time, data and license. --model takes their names."""
    parser.set_defaults(module="sr_nas.analysis.models")
    _format(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object on standard output")


def _app(parser: ArgumentParser) -> None:
    """Upscale photos on a page in your browser: drop them, compare with bicubic, download (docs/app.md)."""
    add = parser.add_argument
    text = "networks beside those that sr-nas models lists: exported files, or folders of trainings"
    add("--model", nargs="+", default=[], metavar="FILE|DIR", help=text)
    add("--run", type=Path, metavar="DIR", help="run folder to show: its report.html, and its network where it has one")
    add("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1, this machine alone)")
    add("--port", type=int, default=7860, metavar="N", help="0: any that is free (default: 7860)")
    add("--max_mb", type=whole_number, default=200, metavar="N", help="size of an uploaded file at most (default: 200)")
    add("--max_megapixels", type=whole_number, default=60, metavar="N", help="of a photo at most (default: 60)")
    _device(parser)
    parser.set_defaults(module="sr_nas.app.server")


COMMANDS: dict[str, Callable[[ArgumentParser], None]] = {
    "make": _make,
    "search": _search,
    "train": _train,
    "sweep": _sweep,
    "report": _report,
    "evaluate": _evaluate,
    "analyze": _analyze,
    "complexity": _complexity,
    "latency": _latency,
    "export": _export,
    "inference": _inference,
    "models": _models,
    "app": _app,
}
"""Command -> the function that adds its arguments to a parser; its docstring is the description in --help."""


def _description(command: str) -> str:
    return inspect.getdoc(COMMANDS[command]) or ""


def parser_of(command: str) -> ArgumentParser:
    """Return the argument parser of a command."""
    parser = ArgumentParser(prog=command, description=_description(command), formatter_class=RawDescriptionHelpFormatter)
    parser.set_defaults(module=f"sr_nas.jobs.{command}")
    COMMANDS[command](parser)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return its exit code. Errors meant for the user are printed without a traceback.

    Args:
        arguments: the command and its own arguments; by default those of the process.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help"):
        width = max(map(len, COMMANDS))
        summaries = [f"  {name:{width}}  " + _description(name).split("\n")[0] for name in COMMANDS]
        print(
            "usage: sr-nas COMMAND ...\n",
            *summaries,
            "\nsr-nas COMMAND --help tells more; tools/COMMAND.py is the same.",
            sep="\n",
        )
        return 0 if words else 2
    command, *rest = words
    if command not in COMMANDS:
        text = f"unknown command '{command}'{nearest(command, COMMANDS)} Commands: {', '.join(COMMANDS)}."
        print(f"sr-nas: {text}", file=sys.stderr)
        return 2
    parser = parser_of(command)
    args, others = parser.parse_known_args(rest)
    if command == "complexity":
        args.settings = others
    elif others:
        parser.error(f"unrecognized arguments: {' '.join(others)}")
    if command == "sweep":
        if args.random is not None and not (args.grid or args.front):
            parser.error("--random goes with --grid, of whose points it draws some, or with --front")
        if not (args.grid or args.seeds or args.front):
            parser.error("one of --grid, --seeds and --front is needed: what differs between the trials?")
        for name, other in (("best", "front"), ("cores", "address"), ("gpus", "address")):
            if getattr(args, name) is not None and getattr(args, other) is None:
                parser.error(f"--{name} goes with --{other}")
    wait_briefly()
    if command != "inference":
        # A large photo is promised to fit 4 GB of memory, which keeping freed memory would exceed.
        keep_freed_memory()

    def run() -> int:
        for file in getattr(args, "plugin", ()):
            load_plugin(file)
        if hasattr(args, "format"):
            importlib.import_module("sr_nas.report.tables").Table.format = args.format
        return int(importlib.import_module(args.module).main(args))

    return with_errors_printed(command, run)


def with_errors_printed(command: str, run: Callable[[], int]) -> int:
    """Return the exit code of a command; errors meant for the user are printed without a traceback and give 1.

    What the terminal's encoding lacks, perhaps the name of a file, is printed with backslashes.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        return run()
    except KeyboardInterrupt as error:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # another one ends the process at once, without Python's tracebacks
        code, text = 130, f"stopped. {error}".rstrip()
    except BrokenPipeError:
        return 1
    except (UserError, OSError) as error:
        code, text = 1, reason(error) if isinstance(error, OSError) else str(error)
    except Exception as error:
        code, text = 1, error_in_plugin(error)
        if is_out_of_memory(error):
            text = "the memory does not suffice. Take less at once, or end what else runs here."
        elif not text:
            raise
    lines = f"{command}: {text}".splitlines()
    if sys.stderr.isatty():  # which would break words at its edge
        width = shutil.get_terminal_size().columns
        lines = [textwrap.fill(line, width, break_long_words=False, break_on_hyphens=False) for line in lines]
    print(*lines, sep="\n", file=sys.stderr)
    return code


def tool(command: str) -> None:
    """Entry point of ``tools/<command>.py``."""
    sys.exit(main([command, *sys.argv[1:]]))
