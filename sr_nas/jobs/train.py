"""A training, from its options to a network in a run folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console

from sr_nas.build import build_pairs, build_trainer
from sr_nas.data.pairs import Pairs
from sr_nas.export.model import BEST, LAST
from sr_nas.export.network_file import load_network, save_network
from sr_nas.inference.images import upscaler
from sr_nas.jobs.opening import open_run
from sr_nas.metrics.benchmark import bicubic, evaluate_set
from sr_nas.options.train import TrainOptions
from sr_nas.report.live import TrainView
from sr_nas.report.picture import comparison
from sr_nas.runs.checkpoint import save_checkpoint
from sr_nas.runs.device import peak_memory, pick_device
from sr_nas.runs.folder import CHECKPOINT, append_history, cut_history
from sr_nas.runs.interrupt import Interrupt

PICTURE = "comparison.png"


def run_training(options: TrainOptions, console: Console, auto_resume: bool = False) -> tuple[Path, int]:
    """Train, or go on training.

    Args:
        options: checked options.
        console: where progress is shown.
        auto_resume: go on with the newest run of this name, where there is one.

    Returns:
        The run folder and the exit code: 0, or 128 plus the signal that stopped the training.
    """
    device = pick_device(options.num_gpu)
    trainer = build_trainer(options, device)
    val = options.datasets.val
    pairs = None if val is None else build_pairs(val, options.scale)
    baseline = None if pairs is None else evaluate_set(bicubic, pairs, options.scale)
    run = open_run(options, device, auto_resume)
    best: float | None = None
    if run.state is not None:
        best = run.state.pop("best")
        trainer.load_state_dict(run.state)
        cut_history(run.folder, trainer.iteration, key="iteration")
    losses: list[float] = []
    frequency = options.logger.save_checkpoint_freq or options.val.val_freq

    with TrainView(
        console, run.folder.name, trainer.total, trainer.iteration, options.logger.print_freq
    ) as view, Interrupt() as stop:

        def say(text: str) -> None:
            run.log.info("%s", text)
            view.message(text)

        def validate() -> None:
            nonlocal best
            record: dict[str, Any] = {"iteration": trainer.iteration, "loss": sum(losses) / len(losses), "learning_rate": trainer.learning_rate}
            losses.clear()
            if val is not None and pairs is not None:
                record["val"] = {val.name or val.type: evaluate_set(upscaler(trainer.averaged, device=device), pairs, options.scale)}
                psnr = next(iter(record["val"].values()))["psnr"]
                improved = best is None or psnr > best
                best = psnr if best is None else max(best, psnr)
                view.validation(trainer.iteration, record["val"], improved)
                if improved:
                    save_network(run.folder / BEST, trainer.averaged, _summary(options, record))
            save_network(run.folder / LAST, trainer.averaged, _summary(options, record))
            memory = peak_memory(device)
            append_history(run.folder, record | ({} if memory is None else {"memory_bytes": memory}))
            run.log.info("%s", {key: value for key, value in record.items() if key != "val"} | _means(record))

        def on_step(loss: float) -> None:
            losses.append(loss)
            view.step(trainer.iteration, trainer.total, loss, trainer.learning_rate)
            if trainer.iteration % options.val.val_freq == 0 or trainer.iteration == trainer.total:
                validate()

        def between_steps() -> bool:
            if stop() or trainer.iteration % frequency == 0 or trainer.iteration == trainer.total:
                save_checkpoint(run.folder / CHECKPOINT, trainer.state_dict() | {"best": best})
            return stop()

        say(f"{'going on' if run.state else 'training'} in {run.folder} on {device}, iteration {trainer.iteration} of {trainer.total}")
        if baseline is not None:
            say(f"bicubic on the validation images: {baseline['psnr']:.3f} dB / {baseline['ssim']:.4f}")
        if not trainer.run(on_step, between_steps):
            say(f"stopped at iteration {trainer.iteration} of {trainer.total}, saved in {run.folder}. --auto_resume goes on from there.")
            return run.folder, stop.exit_code
        if pairs is not None:
            _picture(run.folder, pairs, options.scale)
            say(f"{run.folder / PICTURE} shows {pairs.names[0]}: bicubic, the network, HR")
        say(f"the network is in {run.folder}, {BEST if pairs is not None else LAST}")
    return run.folder, 0


def _picture(folder: Path, pairs: Pairs, scale: int) -> None:
    low, high = pairs.lr(0), pairs.hr(0)
    network = load_network(folder / BEST)
    comparison(folder / PICTURE, [("bicubic", bicubic(low, scale)), (f"{network.arch}, searched", upscaler(network)(low, scale)), ("HR", high)])


def _summary(options: TrainOptions, record: dict[str, Any]) -> dict[str, Any]:
    data = options.datasets.train
    return {
        "run": options.name,
        "iteration": record["iteration"],
        "data": data.name or data.type,
        "seed": options.manual_seed,
        "loss": options.train.pixel_opt.type,
        "validation": _means(record),
    }


def _means(record: dict[str, Any]) -> dict[str, dict[str, float]]:
    return {name: {"psnr": scores["psnr"], "ssim": scores["ssim"]} for name, scores in record.get("val", {}).items()}
