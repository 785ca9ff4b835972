"""The rows of the paper: what is printed, what our networks count, what docs/paper.md and the option files say."""

from __future__ import annotations

import pytest

from sr_nas.complexity.costs import complexity, count_params
from sr_nas.jobs.complexity import ROWS, Row
from sr_nas.options.load import load_options
from sr_nas.options.sections import SearchOptions, TrainOptions
from sr_nas.registry import NETWORKS
from tests.conftest import REPOSITORY

OPTIONS = REPOSITORY / "options"
DOCUMENT = (REPOSITORY / "docs" / "paper.md").read_text()
# fvcore's own count of the whole network at 1280x720, in 10^9.
MACS = {"DLSR": 269.51, "SA-DLSR": 216.16, "SAC-DLSR": 257.30, "DLSR + Beta-DARTS": 2039.34, "IMDN": 654.53}
rows = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)


def cells(row: Row) -> list[str]:
    """The row's line in the table of docs/paper.md."""
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in DOCUMENT.splitlines() if line.startswith("|")]
    (found,) = [line for line in lines if line[0] == row.name]
    return found


@rows
def test_parameters_are_those_of_the_paper(row: Row) -> None:
    """All but the last: as printed, its genotype lacks a BatchNorm of 64 channels that the count has, in six blocks."""
    network = NETWORKS.get(row.arch)(scale=row.scale, genotype=row.genotype)
    missing = 6 * 2 * 64 if row.name == "SAC-IMDN, FLOPs term" else 0
    assert (count_params(network) + missing) / 1e3 == pytest.approx(row.params, abs=0.0051)


@rows
def test_the_training_file_trains_that_network(row: Row) -> None:
    options = load_options(TrainOptions, OPTIONS / "paper" / f"{row.training}.yml", check_files=False)
    network = NETWORKS.build(options.network_g)(scale=options.scale)
    assert options.scale == 2 and network.arch == row.arch
    assert network.genotype.names[: len(row.genotype.split(","))] == row.genotype.split(",")
    assert network.genotype == NETWORKS.get(row.arch)(genotype=row.genotype).genotype


@pytest.mark.parametrize("row", [row for row in ROWS if row.search], ids=lambda row: row.name)
@pytest.mark.parametrize("folder", ["", "paper"])
def test_the_search_file_searches_as_the_row_says(row: Row, folder: str) -> None:
    options = load_options(SearchOptions, OPTIONS / folder / f"{row.search}.yml", check_files=False)
    assert options.network_g.type == row.arch
    regularizer = "beta" if "Beta" in row.name else "sa" if row.name.startswith("SA") else "none"
    assert options.search.regularizer.type == regularizer and not options.search.regularizer.on_inputs
    assert options.network_g.arguments()["partial_channel"] == (4 if row.name.startswith("SAC") else 1)
    assert set(options.search.costs()) == ({"flops"} if "FLOPs" in row.name else {"params"} if row.name == "DLSR" else set())
    if row.name == "DLSR":
        assert options.search.alpha_loss == "train+val" and options.search.warmup_epochs > 0
        assert options.train.pixel_opt.type == "L1HFENLoss"


@pytest.mark.long
@rows
def test_docs_paper_prints_what_the_paper_prints_and_what_we_count(row: Row) -> None:
    network = NETWORKS.get(row.arch)(scale=row.scale, genotype=row.genotype)
    found = complexity(network)
    if row.name in MACS:
        assert found["macs_lr_1280x720"] / 1e9 == pytest.approx(MACS[row.name], abs=0.005)
    assert cells(row)[1:] == [
        f"`{row.search}.yml`" if row.search else "",
        f"`{row.training}.yml`",
        " / ".join(f"{psnr:.2f}" for psnr in row.psnr),
        f"{row.params:.2f} K",
        f"{found['params']:,}",
        f"{row.multi_adds:.2f} G",
        f"{found['macs_lr_1280x720'] / 1e9:.2f} G",
        f"{found['macs_hr_1280x720'] / 1e9:.2f} G",
    ]
