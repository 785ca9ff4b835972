"""The command ``make``: from photos to a network within a budget, by the other commands, each in a process of its own.

Its state is which of their results the work folder holds. What depends on the time, such as the length of a training, is decided
once: when the option file of a step is written.
"""

from __future__ import annotations

import json
import math
import os
import re
import shlex
import shutil
import tempfile
import time
from argparse import Namespace
from contextlib import suppress
from functools import partial
from pathlib import Path
from string import Template
from typing import Any

import psutil
import torch

from sr_nas.complexity.latency import read_latency
from sr_nas.errors import UserError, amount, listing, parse_json
from sr_nas.export.model import shipped, shipped_file
from sr_nas.genotype import NETWORK_BLOCK
from sr_nas.images.folders import find_images
from sr_nas.inference.optimize import require_packages
from sr_nas.jobs.photos import LEFT_OUT, ROLES, prepare
from sr_nas.jobs.search import range_of
from sr_nas.jobs.trials import LOCK, OPTION_FILES, OUTPUTS, open_sweep, start
from sr_nas.options.load import check_options, dump_yaml, parse_yaml, read_yaml
from sr_nas.options.sections import SearchOptions, TrainOptions
from sr_nas.report.page import FRONT, PICTURE, REPORT, Section, write_page
from sr_nas.report.progress import duration
from sr_nas.runs.device import available_memory, cores, omp_threads, pick_device, quickest_threads, use_threads, wait_for
from sr_nas.runs.distributed import GracefulShutdown
from sr_nas.runs.files import replacing, write_json, write_text
from sr_nas.runs.run_dir import run_folders
from sr_nas.task import build_searcher, build_trainer, build_training, find_task, network_costs

UNITS = {
    "G": ("macs_hr", "multiply-adds for an HR output of 1280x720"),
    "K": ("params", "parameters"),
    "ms": ("latency_ms", "milliseconds here for an LR image of 320x180, of one core where there is no GPU"),
}
"""Unit of a budget -> the cost that it limits, and what that is."""
LONG = 1800
"""Seconds from which a search selects from twelve networks and nine are halved, instead of four and three."""
RUNGS: dict[int, tuple[tuple[int, int], ...]] = {9: ((9, 1), (3, 2), (1, 6)), 3: ((3, 1), (1, 2)), 1: ()}
"""Networks of a halving by 3 -> of each rung the number of networks, and how long it is, in first rungs."""
SEARCH, SWEEP, END, ALONE = 0.2, 0.25, 0.03, 0.3
"""Shares of the time for the search, the sweep, and all after the training; step of one network, in those of a supernet."""
TRAINING = 1_300_000_000
"""Bytes of a training: PyTorch, and 150 megapixels of photos with their LR images."""
# The recipe of docs/results.md, "Plain blocks beside IMDN", but for the optimizer. Values are put into their YAML.
OPTIONS = {
    "search": """\
name: search
scale: $scale
datasets: {train: $data}
network_g: {type: PLAIN, nf: [16, 24, 32, 48], num_blocks: 6, candidates: [conv_3x3_2, conv_3x3_3, skip]}
train: {optim_g: {type: Adam, lr: 1e-3, weight_decay: 1e-8}, pixel_opt: {type: L1Loss, loss_weight: 255}}
search: {epochs: 8, warmup_epochs: 4, alpha: {optim: {type: Adam, lr: 1e-2, betas: [0.5, 0.999], weight_decay: 1e-3}}}
path: {experiments_root: "$work"}""",
    "train": """\
name: $name
scale: $scale
datasets: {train: $data, val: {name: judge, type: folder, dataroot_gt: "$work/photos/judge"}}
train:
  total_iter: $iterations
  optim_g: $optimizer
  scheduler: {type: CosineAnnealingLR, eta_min: 1e-6}
  pixel_opt: {type: L1Loss}
  ema_decay: $decay
val: {val_freq: $every}
logger: {print_freq: $every, save_checkpoint_freq: $save}
path: {experiments_root: "$work"}""",
    "evaluate": '{name: evaluation, datasets: {kept_out: "$work/photos/kept_out"}, path: {experiments_root: "$work"}}',
}
ASKED, PHOTOS = "make.json", "photos.json"
"""Files of the work folder: what was asked for, and what became of each photo."""
say = partial(print, flush=True)


def main(args: Namespace) -> int:
    """Run the command ``make``, or go on with it; return its exit code."""
    if args.output.suffix != ".safetensors":
        raise UserError(f"-o {args.output}: the network is a .safetensors file; ONNX and a model card are put beside it.")
    if not args.hours:
        raise UserError("--hours 0: give it some time, for example 0.5.")
    work = args.work or Path("experiments", "make_" + re.sub(r"[^A-Za-z0-9._+-]", "_", args.output.stem))
    budget, fresh = read_budget(args.budget), not work.exists()
    if args.photos.resolve().is_relative_to(work.resolve()):
        raise UserError(f"--work {work}: the photos in {args.photos} lie in it; name a folder for what make writes alone.")
    if not fresh and not any((work / name).exists() for name in (ASKED, PHOTOS)):
        names = [file.name for file in work.iterdir()] if work.is_dir() else [work.name]
        if others := {name for name in names if not name.startswith(".")} - {OPTION_FILES, OUTPUTS, LOCK}:
            raise UserError(f"--work {work}: no make began there, and it holds {listing(sorted(others), 5)}. Name a new folder.")
    files = [] if (work / PHOTOS).exists() else find_images(args.photos, recursive=True, besides=work)
    with open_sweep(work) as held, GracefulShutdown() as stop:
        try:
            make = Make(args, work, budget, files, held, stop)
            make.begin()
        except UserError:
            if fresh:
                shutil.rmtree(work, ignore_errors=True)  # in which nothing was made yet
            raise
        if not make.run():
            say("stopped; the same command goes on.")
        return stop.exit_code


def read_budget(text: str) -> tuple[str, float]:
    """Return the cost that a budget such as ``10G``, ``150K`` or ``15ms`` limits, and the limit; a UserError if it is none."""
    unit = next((unit for unit in UNITS if text.endswith(unit)), "")
    with suppress(ValueError):
        if unit and 0 < (limit := amount(text.removesuffix("ms"))) < math.inf:
            return UNITS[unit][0], limit
    units = ", ".join(f"{unit} ({meaning})" for unit, (_, meaning) in UNITS.items())
    raise UserError(f"--budget {text}: name a number above 0 with its unit, for example 10G: {units}.")


class Make:
    """The steps from photos to a network, and the time that they have.

    Args:
        args: of the command line.
        work: folder of all that is made.
        budget: cost and its limit.
        files: the photos.
        held: open file with the lock of the folder, which the steps hold, too.
        stop: whether a signal asks to stop.
    """

    def __init__(
        self, args: Namespace, work: Path, budget: tuple[str, float], files: list[Path], held: int, stop: GracefulShutdown
    ) -> None:
        self.args, self.work, self.files, self.held, self.stop = args, work, files, held, stop
        (self.cost, self.limit), self.device, self.seconds = budget, pick_device("auto"), 3600 * args.hours
        self.clock = work / "clock.json"
        self.before, self.began = _read(self.clock, float) if self.clock.exists() else 0.0, psutil.Process().create_time()
        # Seconds of a process that opens its data, too. The first one on a cold disk takes far longer than those that follow.
        self.starting = min(2 * (time.time() - self.began), 0.015 * self.seconds)
        self.shipped = [name for name in shipped() if name == f"x{args.scale}"]
        self.networks, self.most = (12, 9) if self.seconds >= LONG else (4, 3)
        ends, name = (".safetensors", ".onnx", ".md"), args.output.stem
        self.results = {work / f"{name}{end}": args.output.with_suffix(end) for end in ends}

    def used(self) -> float:
        """Return the seconds that have been used, those before interruptions too."""
        return self.before + time.time() - self.began

    def begin(self) -> None:
        """Check what can be checked before the first step, and print the plan.

        Raises:
            UserError: a result exists, no network is within the budget, or the work folder is that of another command.
        """
        args, file = self.args, self.work / ASKED
        try:
            require_packages("onnx", "onnxscript", "onnxruntime")
        except UserError as error:
            self.results = {source: target for source, target in self.results.items() if source.suffix != ".onnx"}
            say(f"there will be no ONNX file: {error}")
        asked = {"photos": str(args.photos.resolve()), "scale": args.scale, "budget": args.budget, "hours": args.hours}
        old, searched = _read(file) if file.exists() else asked, (self.work / OPTION_FILES / "search.yml").exists()
        # Until the search has begun, another budget or time is no harm.
        changed = [key for key, value in asked.items() if old.get(key) != value and (searched or key in ("photos", "scale"))]
        if changed:
            was = listing(f"--{key} {old.get(key)}" for key in changed)
            raise UserError(f"{self.work} was begun with {was}. Give that again to go on; another --work or -o begins anew.")
        options = check_options(SearchOptions, self.latency_options(), file, check_files=False)
        costs = network_costs(find_task(options.task).space(options), {"macs_hr": math.inf, "params": math.inf})
        self.check_budget(costs)
        self.check_results()
        write_json(file, asked)
        spent = f", of which {duration(self.before)} are used" * bool(self.before)
        photos = f"{len(self.files)} photos in {args.photos}" if self.files else f"the photos of {args.photos} as read before"
        say(f"{photos}, {duration(self.seconds)}{spent}; all that is made lies in {self.work}")
        say(f"budget {args.budget}: {dict(UNITS.values())[self.cost]}; networks of this space have {range_of(costs)}")
        for name, purpose, *_ in [("photos", "of eight one is kept out, one judges; large ones are halved"), *self.steps()]:
            say(f"  {name:10}{purpose}")

    def check_results(self) -> None:
        """Raise UserError where a result would replace another file, or cannot be written."""
        for source, target in self.results.items():
            same = source.exists() and target.is_file() and source.read_bytes() == target.read_bytes()
            if target.is_dir() or (target.exists() and not self.args.overwrite and not same):
                remedy = "" if target.is_dir() else ", replace it with --overwrite"
                again = f" (with --work {self.work}, to go on from what is there)" if (self.work / PHOTOS).exists() else ""
                raise UserError(f"-o: {target} exists. Take it away{remedy}, or choose another name{again}.")
            parent = next(folder for folder in target.absolute().parents if folder.exists())
            try:
                tempfile.TemporaryFile(dir=parent).close()
            except OSError as error:
                raise UserError(f"-o: {target} cannot be written: {error}.") from error

    def check_budget(self, costs: Any) -> None:
        """Raise UserError where no network is within the budget, if its cost is one of these."""
        if self.cost in costs and costs[self.cost].least > self.limit:
            has = f"At scale {self.args.scale} they have {range_of(costs)}"
            raise UserError(f"--budget {self.args.budget}: no network is so small. {has}.")

    def folder(self, name: str) -> Path:
        """Return the newest run of a name."""
        return next(iter(run_folders(self.work, name)), self.work / name)

    def steps(self) -> list[tuple[str, str, Any, Any]]:
        """Return of each command its name here, what it is for, what gives its words, and what tells whether it is done."""
        times, table, (network, *more) = self.work / "latency.json", self.work / "evaluation" / "table.json", self.results
        how = ["--rounds", 9, "--networks", 24] if self.seconds >= LONG else ["--rounds", 5, "--networks", 12]
        how += ["--clock", "cpu", "--threads", 1] if self.device.type == "cpu" else []
        others = listing(["bicubic", *self.shipped]) + f"; no network of scale {self.args.scale} is shipped" * (not self.shipped)
        shares = (SWEEP, SEARCH, 1 - SWEEP - SEARCH - END)
        of_sweep, of_search, rest = (f"about {duration(share * self.seconds)}" for share in shares)

        def command(name: str, *words: Any) -> Any:
            return lambda: [name, "-opt", self.file(name), *(word() if callable(word) else word for word in words)]

        def export(file: Path) -> Any:
            return lambda: ["export", "--run", self.folder("train"), "-o", file, "--overwrite"]

        run, trained = partial(self.folder, "search"), partial(self.folder, "train")
        search, train = command("search", "--auto_resume"), command("train", "--auto_resume")
        sweep = command("sweep", "--front", run, "--best", self.contenders, "--halving", 3, "--jobs", self.jobs)
        steps = [
            ("latency", "times of the candidates here", command("latency", "-o", times, *how), times.exists),
            ("search", f"networks within the budget, {of_search}", search, lambda: (run() / FRONT).exists()),
            ("sweep", f"short trainings of the best, {of_sweep}", sweep, self.winner),
            ("train", f"the best of those, for the rest of the time, {rest}", train, lambda: (trained() / PICTURE).exists()),
            ("evaluate", f"the photos kept out, beside {others}", command("evaluate"), lambda: self.has(table, "complete")),
            ("export", str(self.args.output), export(network), network.with_suffix(".md").exists),
            *(("onnx", str(self.results[file]), export(file), file.exists) for file in more if file.suffix == ".onnx"),
        ]
        return steps[self.cost != "latency_ms" :]

    def run(self) -> bool:
        """Run what has not been run, and put the results where they are asked for; return whether that is done."""
        prepared = self.work / PHOTOS
        if not prepared.exists():
            say("\nphotos: reading, and writing them anew as PNG")
            content = prepare(self.args.photos, self.files, self.work / "photos", self.stop)
            if content is None:
                return False
            write_json(prepared, content)
        content = _read(prepared, dict, *ROLES, LEFT_OUT)
        say(f"photos: {', '.join(f'{len(some)} {role}' for role, some in content.items())}; {prepared} names them")
        for photo, why in list(content[LEFT_OUT].items())[:10]:
            say(f"  left out: {photo}: {why}")
        commands = []
        for name, _, words_of, is_done in self.steps():
            if name == "sweep" and self.contenders() == 1:
                say("sweep: left out, since fewer than three networks are within the budget")
                continue
            words = list(map(str, words_of()))
            commands.append(command := shlex.join(["sr-nas", *words]))
            if is_done():
                say(f"{name}: done before")
                continue
            log = self.work / OUTPUTS / f"{name}.txt"
            say(f"\n{name}: {command}")
            code = self.execute(words, log)
            if self.stop():
                return False
            if code and name == "sweep" and is_done():
                say(f"sweep: some trainings have failed ({log} says which); the best of the others goes on")
            elif code or not is_done():
                text = f"the step {name} has failed: see the end of {log}. Once that is mended, the same make goes on"
                raise UserError(f"{text}; the step alone is: {command}")
        self.check_results()  # what came there meanwhile is not replaced
        for source, target in self.results.items():
            if source.resolve() != target.resolve():
                target.parent.mkdir(parents=True, exist_ok=True)
                with replacing(target) as temporary:
                    shutil.copyfile(source, temporary)
        say(f"\ndone in {duration(self.used())} of {duration(self.seconds)}: {', '.join(map(str, self.results.values()))}")
        say(f"photos kept out: {self.report(commands)}")
        words = ["sr-nas", "inference", "-i", "PHOTO", "-o", "results", "--model", str(self.args.output)]
        say(f"report: {self.work / REPORT}; try it: {shlex.join(words)}")
        return True

    def report(self, commands: list[str]) -> str:
        """Write a page with the scores on the photos kept out, links to the pages of the steps, and commands; return the PSNR."""
        folder, rows = self.work / "evaluation", []
        for model in _read(folder / "table.json", dict, "models")["models"]:
            scores, size = model["sets"]["kept_out"], {"parameters": "-", "multiply-adds, HR 1280x720": "-"}
            if "params" in model:
                size = dict(zip(size, (f"{model['params']:,}", f"{model['macs_hr_1280x720'] / 1e9:.2f} G"), strict=True))
            rows.append({"network": model["name"], "PSNR, dB": f"{scores['psnr']:.3f}", "SSIM": f"{scores['ssim']:.4f}", **size})
        pages = {page.parent.name: page.relative_to(self.work).as_posix() for page in sorted(self.work.glob(f"*/{REPORT}"))}
        budget = f"{self.args.budget} ({dict(UNITS.values())[self.cost]})"
        asked = f"Asked for: a network for x{self.args.scale} within {budget}, from the photos in {self.args.photos}."
        sections = [
            Section("Before and after", pictures=sorted(folder.glob("crops/*_best.png"))),
            Section("Photos kept out", rows=rows),
            Section("Pages of the steps", links=pages),
            Section("The steps", code=commands),
        ]
        write_page(self.work / REPORT, self.args.output.name, [asked, f"It took {duration(self.used())}."], sections)
        return ", ".join(f"{row['network']} {row['PSNR, dB']} dB" for row in rows)

    def execute(self, words: list[str], log: Path) -> int:
        """Run a command until it ends, by itself or asked to by a signal; show what it prints; return its exit code."""
        width = str(max(shutil.get_terminal_size().columns - 2, 40))
        before = log.stat().st_size if log.exists() else 0
        # The photos' pixels lie in the work folder alone, unless the user has a place for caches.
        cache = {} if os.environ.get("XDG_CACHE_HOME") else {"SR_NAS_CACHE": str(self.work / "cache")}
        environment = cache | os.environ | {"PYTHONUNBUFFERED": "1", "COLUMNS": width}
        process, asked, noted = start(words, log, environment, self.held), False, 0.0
        with log.open(encoding="utf-8", errors="replace") as printed:
            printed.seek(before)
            try:
                while True:
                    code = process.poll()
                    print("".join(f"  {line}" for line in printed), end="", flush=True)
                    if code is not None:
                        return code
                    if self.stop() and not asked:
                        asked = True
                        process.terminate()
                        say("stopping: the step saves itself; once more ends it at once")
                    if time.monotonic() > noted + 5:
                        noted = time.monotonic()
                        write_json(self.clock, self.used())
                    time.sleep(0.1)
            finally:
                process.kill()
                write_json(self.clock, self.used())

    def file(self, name: str) -> Path:
        """Return the option file of a command, which is written the first time."""
        if not (file := self.work / OPTION_FILES / f"{name}.yml").exists():
            content = getattr(self, f"{name}_options")()
            write_text(file, f"# For: sr-nas make -o {self.args.output}\n" + dump_yaml(content))
        return file

    def filled(self, template: str, side: int = 0, batch: int = 0, **values: Any) -> dict[str, Any]:
        """Return options, for batches of patches of so many LR pixels a side."""
        scale, work = self.args.scale, json.dumps(str(self.work), ensure_ascii=False)[1:-1]
        patches = f"gt_size: {side * scale}, batch_size_per_gpu: {batch}"
        values["data"] = f'{{name: photos, type: folder, dataroot_gt: "{work}/photos/train", {patches}}}'
        return dict(parse_yaml(Template(OPTIONS[template]).substitute(values, work=work, scale=scale), self.work))

    def latency_options(self) -> dict[str, Any]:
        return self.filled("search", 24, 4)

    def search_options(self) -> dict[str, Any]:
        """Return the options of the search: a quarter of its time is the supernet's, the rest that of networks alone."""
        options = self.latency_options()
        if self.cost == "latency_ms":
            space = find_task("super-resolution").space(check_options(SearchOptions, options, self.work, check_files=False))
            self.check_budget(network_costs(space, {self.cost: math.inf}, read_latency(self.work / "latency.json", space)))
        steps = (SEARCH * self.seconds - self.starting) / self.step_time(options)
        alone = min(max(round(0.75 * steps / ALONE / self.networks), 4), 3000)
        selection = {"type": "early_stopping", "source": "beta", "networks": self.networks, "steps": alone}
        table = {"latency_table": str(self.work / "latency.json")} if self.cost == "latency_ms" else {}
        more = {"steps_per_epoch": min(max(round(0.25 * steps / 8), 2), 300), "selection": selection, **table}
        options["search"] |= {**more, "budget": {self.cost: self.limit}}
        return options

    def training(self, name: str, network: Any, every: int, times: int, step: float = 60) -> dict[str, Any]:
        """Return the options of a training that is validated so many ``times``, and whose iterations take ``step`` seconds."""
        # MPS, of Macs, has had no eigenvectors for long.
        optimizer = "{type: Adam, lr: 2e-3, betas: [0.9, 0.99]}" if self.device.type == "mps" else "{type: SOAP, lr: 3e-3}"
        decay = round(min(max(1 - 18 / (every * times), 0), 0.999), 4)  # the average of a short training forgets its start
        save = min(max(round(60 / step), 1), every)
        values = {"name": name, "iterations": every * times, "every": every, "save": save, "decay": decay, "optimizer": optimizer}
        return self.filled("train", 32, 8, **values) | {"network_g": network}

    def contenders(self) -> int:
        """Return how many networks of the search are halved: 9, 3, or where it has fewer 1."""
        front = _read(self.folder("search") / FRONT, dict, "cost", "networks")
        within = sum(row[front["cost"]] <= self.limit for row in front["networks"])
        return next(count for count in RUNGS if count <= max(min(within, self.most), 1))

    def jobs(self) -> int:
        """Return how many short trainings run at a time: one for each GPU or core, but what the memory holds; decided once."""
        if not (file := self.work / "jobs.json").exists():
            most = max(available_memory(torch.device("cpu")) // TRAINING, 1)
            write_json(file, min(torch.cuda.device_count() or cores(), most, RUNGS[self.contenders()][0][0]))
        return int(_read(file, int))

    def sweep_options(self) -> dict[str, Any]:
        """Return the options of the short trainings."""
        rungs, jobs, network = RUNGS[self.contenders()], self.jobs(), self.searched()
        step = self.step_time(self.training("halving", network, 100, 1), max(1, cores() // jobs))
        runs, work = (sum(math.ceil(count / jobs) * length**power for count, length in rungs) for power in (0, 1))
        every = int((SWEEP * self.seconds - runs * self.starting) / work / step)
        if every < 50:
            say(f"the time is short for a halving, whose first rung has {max(every, 5)} iterations: --hours should be more")
        return self.training("halving", network, max(every, 5), rungs[0][0], step)

    def searched(self) -> dict[str, Any]:
        return dict(read_yaml(self.folder("search") / NETWORK_BLOCK)["network_g"])

    def has(self, file: Path, key: str) -> bool:
        """Return whether a file of a step is there, and has something under a key."""
        return file.exists() and bool(_read(file).get(key))

    def winner(self) -> dict[str, Any] | None:
        """Return the best network of the halving, or that of the search where it is alone; ``None`` while it is not known."""
        if self.contenders() == 1:
            return self.searched()
        sweep = self.work / f"{self.folder('search').name}-halving_sweep"
        if not self.has(sweep / "sweep.json", "rungs"):
            return None
        best = next(iter(_read(sweep / "sweep.json")["rungs"][-1]["scores"]))
        return dict(read_yaml(sweep / OPTION_FILES / f"{best}.yml")["network_g"])

    def train_options(self) -> dict[str, Any]:
        """Return the options of the winner's training, of so many iterations as the rest of the time has."""
        network, end = self.winner(), END * self.seconds + 3 * self.starting
        step = self.step_time(self.training("train", network, 100, 1))
        return self.training("train", network, max(round((self.seconds - self.used() - end) / step / 10), 2), 10, step)

    def evaluate_options(self) -> dict[str, Any]:
        names = {"network": str(self.folder("train")), **{f"shipped_{name}": str(shipped_file(name)) for name in self.shipped}}
        return self.filled("evaluate") | {"models": {name: {"path": path} for name, path in names.items()}}

    def step_time(self, options: dict[str, Any], threads: int | None = None) -> float:
        """Return the seconds of a step of a search or training, by ten on sample photos, which the first step decodes.

        It has so many ``threads``; by default as many as a run of its own takes.
        """
        patches = {key: options["datasets"]["train"][key] for key in ("gt_size", "batch_size_per_gpu")}
        raw: Any = options | {"datasets": {"train": {"type": "sample", **patches}}}
        if "search" in raw:
            step: Any = build_searcher(check_options(SearchOptions, raw, self.work), self.device).take_step
        else:
            training = check_options(TrainOptions, raw, self.work)
            step = build_trainer(training, *build_training(training)[:2], self.device, "fp32").step
        use_threads(threads)
        step() if threads or omp_threads() or self.device.type != "cpu" else quickest_threads(step)
        wait_for(self.device)
        begun = time.perf_counter()
        for _ in range(10):  # of which one updates the bases of SOAP
            step()
        wait_for(self.device)
        return (time.perf_counter() - begun) / 10


def _read(file: Path, kind: type[Any] = dict, *keys: str) -> Any:
    """Return the content of a JSON file of this kind, with these keys; a UserError where it is another."""
    content = parse_json(file.read_bytes(), file, halves="surrogateescape")
    if not isinstance(content, kind) or any(key not in content for key in keys):
        raise UserError(f"{file} is damaged. Take it away, and what it tells is made anew; or begin with another --work.")
    return content
