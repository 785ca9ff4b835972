"""Two processes that train together are one process with the whole batches, in float64."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from sr_nas.ops.reparam import branched
from sr_nas.optim import WarmUp, adam, multistep, sgd, soap
from sr_nas.runs.distributed import processes, rank, world_size
from sr_nas.trainer import Trainer
from tests.test_trainer import Batches, imdn
from tests.two_processes import run_two

STEPS, STOP, BATCH = 5, 2, 4
CASES: dict[str, dict[str, Any]] = {
    "Adam, averaged": {"ema_decay": 0.5},
    "SGD, clipped": {"optimizer": sgd, "lr": 0.5, "grad_clip_norm": 0.05},
    "Adam, three batches a step": {"accumulate": 3},
    "Adam, in branches": {"reparam": "ecb", "ema_decay": 0.5},
}


class Slices(Batches):
    """This process's slice of every batch."""

    def next(self) -> tuple[torch.Tensor, ...]:
        share = self.size // world_size()
        return tuple(part[rank() * share : (rank() + 1) * share] for part in super().next())


def training(optimizer: Any = adam, lr: float = 1e-2, reparam: str | None = None, **options: Any) -> Trainer:
    """Every process starts from noise of its own."""
    network = imdn("conv_3x3,conv_3x3,dsconv_3x3,conv_3x3", seed=rank()).double()
    network = branched(network, reparam) if reparam else network
    steps = optimizer(network.parameters(), lr=lr)
    schedule = WarmUp(multistep(steps, STEPS, milestones=[3]), 2)
    stream = Slices(BATCH, torch.float64)
    return Trainer(network, F.mse_loss, stream, steps, schedule, STEPS, **{"ema_decay": 0, **options})


def run(train: Trainer, steps: int = STEPS) -> dict[str, Any]:
    losses: list[dict[str, float]] = []
    for step in train.steps():
        losses.append(step)
        if train.iteration == steps:
            break
    return {"state": train.state_dict(), "losses": losses, "averaged": train.averaged.state_dict(), "sound": train.is_sound()}


def together(own_rank: int, folder: Path) -> None:
    with processes(f"file://{folder}/meeting"):
        found = {name: run(training(**case)) for name, case in CASES.items()}
        found["SOAP"] = run(training(soap))
        found["stopped"] = run(training(**CASES["Adam, averaged"]), STOP)
    torch.save(found, folder / f"{own_rank}.pt")


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("together")
    assert run_two(together, folder) == [0, 0]
    return [torch.load(folder / f"{number}.pt", weights_only=False) for number in (0, 1)]


def assert_near(result: dict[str, Any], expected: dict[str, Any]) -> None:
    for part in ("averaged", "state"):
        found, wanted = (of[part].get("network", of[part]) for of in (result, expected))
        for name, tensor in wanted.items():
            torch.testing.assert_close(found[name], tensor, rtol=0, atol=1e-9)


@pytest.mark.long
def test_with_soap_both_processes_have_the_same_weights(found: list[dict[str, Any]]) -> None:
    """Not to the digit those of one process: the first eigenbases of a gradient without full rank hang on its rounding."""
    first, second = (process["SOAP"]["state"]["network"] for process in found)
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())
    losses, alone = ([step["loss"] for step in steps] for steps in (found[0]["SOAP"]["losses"], run(training(soap))["losses"]))
    assert losses[:2] == pytest.approx(alone[:2], rel=1e-9)  # which the first iteration leaves as they are
    assert losses == pytest.approx(alone, rel=0.05)


@pytest.mark.long
@pytest.mark.parametrize("name", CASES)
def test_two_processes_are_one(name: str, found: list[dict[str, Any]]) -> None:
    expected = run(training(**CASES[name]))
    for process in found:
        assert_near(process[name], expected)
        for losses, wanted in zip(process[name]["losses"], expected["losses"], strict=True):
            assert losses == pytest.approx(wanted, rel=0, abs=1e-9)
    first, second = (process[name]["state"]["network"] for process in found)
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.long
def test_what_two_processes_began_one_finishes(found: list[dict[str, Any]]) -> None:
    case = CASES["Adam, averaged"]
    resumed = training(**case)
    resumed.load_state_dict(found[0]["stopped"]["state"])
    assert_near(run(resumed), run(training(**case)))
