"""Two processes that search together are one process with the whole batches, in float64; and how they meet and part."""

from __future__ import annotations

import os
import signal
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from sr_nas.errors import UserError
from sr_nas.runs.distributed import LOST, GracefulShutdown, from_first, is_first, largest, mean, processes, rank, world_size
from sr_nas.search.alpha import Alpha, dirichlet, gumbel_softmax, softmax, uniform_path
from sr_nas.search.objective import Objective, sa
from sr_nas.search.perturbation import adversarial
from sr_nas.search.searcher import Plan, Record, Searcher, argmax
from sr_nas.search.selection import evolution
from tests.search.toy import ToySpace, ToyStream
from tests.two_processes import run_two

TABLE = {"one": torch.tensor([1.0, 9.0, 25.0], dtype=torch.float64), "two": torch.tensor([1.0, 9.0], dtype=torch.float64)}
BATCH, STEPS, STOP = 4, 6, 3
CASES: dict[str, dict[str, Any]] = {
    "first order, SGD": {"optimizer": torch.optim.SGD},
    "first order on both, Adam": {"alpha_on_both": True},
    "second order, SGD, clipped": {"second_order": True, "xi": 0.5, "optimizer": torch.optim.SGD, "grad_clip_norm": 0.05},
    "second order on both, Adam, clipped": {"second_order": True, "xi": 0.5, "alpha_on_both": True, "grad_clip_norm": 0.05},
    "finite differences on both, SGD": {
        "second_order": True,
        "finite_difference": True,
        "xi": 0.5,
        "alpha_on_both": True,
        "optimizer": torch.optim.SGD,
    },
    "sampling": {"relaxation": gumbel_softmax, "seed": 3},
    "single level, clipped": {"relaxation": dirichlet, "seed": 3, "single_level": True, "grad_clip_norm": 0.05},
    "drawn candidates, SGD": {"relaxation": partial(gumbel_softmax, hard=True), "seed": 3, "optimizer": torch.optim.SGD},
    "perturbed": {"perturbation": adversarial, "seed": 3},
    "paths": {"relaxation": uniform_path, "optimizer": torch.optim.SGD, "selection": partial(evolution, population=2, cycles=3)},
}


def searcher(
    optimizer: Any = torch.optim.Adam,
    norm: bool = False,
    relaxation: Any = softmax,
    selection: Any = argmax,
    perturbation: Any = None,
    **plan: Any,
) -> Searcher:
    """A search of slices of batches of 4; every process starts from noise of its own."""
    torch.manual_seed(rank())
    space = ToySpace(norm).double()
    alpha = Alpha(space.choices(), "normal", 0.5).double()
    share = BATCH // world_size()
    places = slice(rank() * share, (rank() + 1) * share)
    weights = optimizer(space.parameters(), lr=0.05)
    return Searcher(
        space,
        alpha,
        relaxation,
        Objective(F.mse_loss, partial(sa, nu=0.25, mu=3.0), lambda epoch: 0.2 * epoch, space.choices(), {"flops": (0.3, TABLE)}),
        ToyStream(1, size=BATCH, places=places),
        ToyStream(2, size=BATCH, places=places),
        weights,
        optimizer(alpha.parameters(), lr=0.05),
        torch.optim.lr_scheduler.CosineAnnealingLR(weights, T_max=3),
        Plan(**({"epochs": 3, "steps_per_epoch": 2} | plan)),
        selection=selection,
        perturbation=perturbation,
    )


def run(search: Searcher, steps: int = STEPS) -> dict[str, Any]:
    """Search; return all that two equal searches share."""
    losses: list[dict[str, float]] = []
    records: list[Record] = []
    search.run(
        lambda values: losses.append({name: value.item() for name, value in values.items()}),
        records.append,
        lambda: search.step == steps,
    )
    result = {"losses": losses, "alpha": flat(search.alpha), "weights": flat(search.space), "genotype": records[-1]["genotype"]}
    return result | {"state": search.state_dict(), "selection": records[-1].get("selection")}


def flat(module: torch.nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in module.parameters()])


def together(own_rank: int, folder: Path) -> None:
    """What each of the two processes does."""
    found: dict[str, Any] = {}
    with processes(f"file://{folder}/first"):
        for name, case in CASES.items():
            found[name] = run(searcher(**case))
            resumed = searcher(**case)
            resumed.load_state_dict(torch.load(folder / f"{name}.pt", weights_only=True))
            found[f"{name}, resumed"] = run(resumed)
        found["stopped"] = run(searcher(**CASES["second order on both, Adam, clipped"]), STOP)
        found["normalised"] = run(searcher(norm=True))
        found["largest"] = largest(own_rank + 5)
        found["from first"] = from_first(lambda: {"rank": rank(), "tensor": torch.arange(3)})
        with pytest.raises(UserError, match="the first process says so"):
            from_first(partial(refuse, "the first process says so"))
        with GracefulShutdown() as stop:
            if own_rank == 1:
                os.kill(os.getpid(), signal.SIGTERM)
            found["stop"] = (stop.agreed(), stop.exit_code)
    for place, text in (("same", "same"), ("other", f"process {own_rank}")):
        with pytest.raises((UserError, SystemExit)) as raised, processes(f"file://{folder}/{place}"):
            refuse_together(text)
        found[place] = repr(raised.value)
    torch.save(found, folder / f"{own_rank}.pt")
    try:
        with processes(f"file://{folder}/last"):
            largest(0)
            if own_rank == 1:
                os._exit(9)
            largest(0)
    except UserError as error:
        (folder / "lost.txt").write_text(str(error))


def refuse(text: str) -> None:
    raise UserError(text)


def refuse_together(text: str) -> None:
    largest(0)  # one that leaves before the other is there would leave it waiting; torchrun ends such a one
    refuse(text)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], dict[str, Any], str]:
    folder = tmp_path_factory.mktemp("together")
    for name, case in CASES.items():
        half = searcher(**case)
        run(half, STOP)
        torch.save(half.state_dict(), folder / f"{name}.pt")
    assert run_two(together, folder) == [0, 9]
    first, second = (torch.load(folder / f"{number}.pt", weights_only=False) for number in (0, 1))
    return first, second, (folder / "lost.txt").read_text()


@pytest.mark.long
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("suffix", ["", ", resumed"])
def test_two_processes_are_one(name: str, suffix: str, found: Any) -> None:
    expected = run(searcher(**CASES[name]))
    for process in found[:2]:
        result = process[name + suffix]
        for part in ("alpha", "weights"):
            torch.testing.assert_close(result[part], expected[part], rtol=0, atol=1e-9)
        for losses, wanted in zip(result["losses"][::-1], expected["losses"][::-1], strict=False):
            assert losses == pytest.approx(wanted, rel=0, abs=1e-9)
        assert result["genotype"] == expected["genotype"]
        assert result["selection"] == (expected["selection"] and pytest.approx(expected["selection"], abs=1e-9))
    assert torch.equal(found[0][name + suffix]["alpha"], found[1][name + suffix]["alpha"])
    assert len(found[0][name + suffix]["losses"]) == (STEPS - STOP if suffix else STEPS)


@pytest.mark.long
def test_what_two_processes_began_one_finishes(found: Any) -> None:
    case = CASES["second order on both, Adam, clipped"]
    expected, resumed = run(searcher(**case)), searcher(**case)
    resumed.load_state_dict(found[0]["stopped"]["state"])
    result = run(resumed)
    for part in ("alpha", "weights"):
        torch.testing.assert_close(result[part], expected[part], rtol=0, atol=1e-9)


@pytest.mark.long
def test_with_batchnorm_both_hold_the_same_network(found: Any) -> None:
    first, second = (process["normalised"] for process in found[:2])
    assert torch.equal(first["weights"], second["weights"]) and torch.equal(first["alpha"], second["alpha"])
    # Each normalises its own half of the batch, so that this is not the search of one process.
    assert (first["weights"] - run(searcher(norm=True))["weights"]).abs().max() > 1e-4


@pytest.mark.long
def test_what_processes_tell_each_other(found: Any) -> None:
    for process in found[:2]:
        assert process["largest"] == 6
        assert process["from first"]["rank"] == 0 and process["from first"]["tensor"].tolist() == [0, 1, 2]
        assert process["stop"] == (True, 143)


@pytest.mark.long
def test_an_error_of_all_is_told_by_one(found: Any) -> None:
    assert sorted(process["same"] for process in found[:2]) == ["SystemExit(1)", "UserError('same')"]
    assert [process["other"] for process in found[:2]] == ["UserError('process 0')", "UserError('process 1')"]


@pytest.mark.long
def test_the_end_of_one_process_is_told_by_the_other(found: Any) -> None:
    assert found[2] == LOST


def test_one_process_pays_nothing() -> None:
    search = searcher()
    assert search.replica is search.space
    tensor = torch.ones(3)
    assert mean([tensor])[0] is tensor
    assert is_first() and world_size() == 1 and largest(7) == 7
