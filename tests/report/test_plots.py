"""The lines of the plots are the numbers of the history."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from sr_nas.errors import UserError
from sr_nas.report.plots import (
    BetaCurves,
    beta_curves,
    beta_figure,
    budget_panels,
    curves_figure,
    line_styles,
    save,
    series,
    size_panels,
    training_panels,
    winners,
)


def data(line: Line2D) -> tuple[list[float], list[float]]:
    return np.asarray(line.get_xdata()).tolist(), np.asarray(line.get_ydata()).tolist()


def test_beta_lines_equal_the_history(make_history, imdn_choices) -> None:
    history = make_history(imdn_choices, 6)
    figure = beta_figure(beta_curves(history, imdn_choices))
    assert len(figure.axes) == 4
    for axes, (label, names) in zip(figure.axes, imdn_choices.items(), strict=True):
        *candidates, uniform = axes.lines
        assert len(candidates) == len(names)
        for index, line in enumerate(candidates):
            assert data(line) == ([1, 2, 3, 4, 5, 6], [record["beta"][label][index] for record in history])
        assert data(uniform)[1] == [1 / 12, 1 / 12]


def test_only_the_kept_candidate_is_bold_and_named(make_history, imdn_choices) -> None:
    history = make_history(imdn_choices, 3)
    history[-1]["genotype"]["genotype"]["conv2"] = imdn_choices["conv2"][5]
    axes = beta_figure(beta_curves(history, imdn_choices)).axes[1]
    widths = [line.get_linewidth() for line in axes.lines[:-1]]
    assert np.argmax(widths) == 5
    assert widths.count(max(widths)) == 1
    assert axes.get_title(loc="left") == "conv2"
    assert axes.get_title(loc="right") == imdn_choices["conv2"][5]
    assert [text.get_text() for text in axes.texts] == [f"{history[-1]['beta']['conv2'][5]:.3f}"]


def test_a_candidate_has_one_colour_in_all_panels(make_history) -> None:
    choices = {"first": ["a", "b", "c"], "second": ["c", "a"]}
    first, second = beta_figure(beta_curves(make_history(choices, 2), choices)).axes
    assert first.lines[0].get_color() == second.lines[1].get_color()
    assert first.lines[2].get_color() == second.lines[0].get_color()


def test_a_band_of_one_standard_deviation_ends_at_0_and_1() -> None:
    mean, std = np.array([[0.5, 0.1], [0.9, 0.2]]), np.array([[0.1, 0.3], [0.3, 0.1]])
    (axes,) = beta_figure({"DARTS": BetaCurves([0, 1], ["a", "b"], mean, ["a"], std)}, "mean of 3 seeds").axes
    extents = [collection.get_datalim(axes.transData) for collection in axes.collections]
    assert [(box.y0, box.y1) for box in extents] == [pytest.approx((0.4, 1.0)), pytest.approx((0.0, 0.4))]


def test_no_two_of_twenty_names_look_alike() -> None:
    names = [f"{stem}{norm}" for stem in "abcdefghij" for norm in ("", "_bn")]
    looks = {(style["color"], str(style["linestyle"])) for style in line_styles(names).values()}
    assert len(looks) == 20


def test_curves_of_a_search_equal_its_history(make_history, imdn_choices) -> None:
    first, *rest = make_history(imdn_choices, 3)
    history = [first | {"loss": {}}, *rest]
    panels = size_panels(history)
    assert list(panels) == ["task loss", "parameters", "MACs, HR output 1280x720"]
    figure = curves_figure("epoch", [1, 2, 3], panels, {"parameters": {"published": 7e5}})
    losses, sizes, macs = figure.axes
    assert [line.get_label() for line in losses.lines] == ["of alpha", "of the weights"]
    np.testing.assert_array_equal(losses.lines[0].get_ydata(), [np.nan, 0.0298123, 0.0298123])
    np.testing.assert_array_equal(losses.lines[1].get_ydata(), [np.nan, 0.03125, 0.03125])
    assert data(sizes.lines[0]) == ([1, 2, 3], [715176] * 3)
    assert sizes.lines[1].get_label() == "published" and data(sizes.lines[1])[1] == [7e5, 7e5]
    assert data(macs.lines[0])[1] == [40_910_000_000] * 3


def test_costs_are_drawn_over_their_budgets() -> None:
    costs = {"limit": 4.0, "expected": 6.0, "argmax": 2.0, "decoded": 3.0, "multiplier": 0.5}
    history = [{"budget": {"params": costs}}, {"budget": {"params": costs | {"expected": 4.0}}}]
    shares = {"expected by beta": [1.5, 1.0], "largest beta": [0.5, 0.5], "genotype": [0.75, 0.75]}
    assert budget_panels(history) == {"params / budget": shares, "multiplier": {"params": [0.5, 0.5]}}


def test_curves_of_a_training_have_bicubic_as_a_level() -> None:
    scores = {"psnr": 30.0, "ssim": 0.9, "images": {"a": {"psnr": 30.0, "ssim": 0.9}}, "bicubic": {"psnr": 29.0, "ssim": 0.8}}
    history = [
        {"iteration": 10, "loss": 0.5, "learning_rate": 1e-3, "val": {"Set $5": scores, "plain": {"top1": 50.0}}},
        {
            "iteration": 20,
            "loss": 0.25,
            "distill": 0.1,
            "learning_rate": 1e-4,
            "val": {"Set $5": scores, "plain": {"top1": 51.0}},
        },
    ]
    panels, levels = training_panels(history)
    assert levels == {"Set $5, PSNR in dB": {"bicubic": 29.0}, "plain, top1": {}}
    assert panels["plain, top1"] == {"network": [50.0, 51]}
    assert panels["learning rate"] == {"": [1e-3, 1e-4]}
    assert panels["loss"]["loss"] == [0.5, 0.25]
    np.testing.assert_array_equal(panels["loss"]["distill"], [np.nan, 0.1])
    figure = curves_figure("iteration", [10, 20], panels, levels)
    FigureCanvasAgg(figure).draw()  # a $ in the name of a set begins no formula


@pytest.mark.long
@pytest.mark.parametrize(
    ("choices", "candidates", "epochs", "width", "height"),
    [(1, 12, 1, 825, 528), (4, 12, 3, 1305, 795), (14, 8, 2, 2265, 1485)],
)
def test_files_are_png_of_the_figure_size(
    tmp_path: Path, make_history, choices: int, candidates: int, epochs: int, width: int, height: int
) -> None:
    space = {f"choice{index}": [f"candidate{number}" for number in range(candidates)] for index in range(choices)}
    history = make_history(space, epochs)
    beta, curves = tmp_path / "new folder" / "beta.png", tmp_path / "curves.png"
    save(beta_figure(beta_curves(history, space)), beta)
    save(curves_figure("epoch", range(epochs), size_panels(history)), curves)
    assert beta.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    image = cv2.imread(str(beta))
    assert image is not None
    assert np.abs(np.subtract(image.shape[:2], (height, width))).max() <= 1
    image = cv2.imread(str(curves))
    assert image is not None
    assert image.shape[1] == 1485
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["beta.png", "curves.png", "new folder"]


def test_axes_of_epochs_have_whole_numbers_only(make_history, imdn_choices) -> None:
    for epochs in (1, 2, 3):
        axes = beta_figure(beta_curves(make_history(imdn_choices, epochs), imdn_choices)).axes[0]
        low, high = axes.get_xlim()
        ticks = [tick for tick in axes.get_xticks() if low <= tick <= high]
        assert ticks == list(range(1, epochs + 1))


def test_a_file_is_replaced_and_never_written_into(tmp_path: Path) -> None:
    path, other_name = tmp_path / "plot.png", tmp_path / "the same file"
    path.write_bytes(b"old")
    other_name.hardlink_to(path)
    save(Figure(), path)
    assert path.read_bytes().startswith(b"\x89PNG")
    assert other_name.read_bytes() == b"old"


def test_a_failed_drawing_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "plot.png"
    path.write_bytes(b"old")

    def fail(figure: Figure, file: Path, **_: object) -> None:
        file.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(Figure, "savefig", fail)
    with pytest.raises(OSError, match="disk full"):
        save(Figure(), path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_series_are_the_values_of_the_history(make_history, imdn_choices) -> None:
    history = make_history(imdn_choices, 5)
    beta = series(history, imdn_choices, "beta")
    assert list(beta) == list(imdn_choices)
    assert beta["conv3"].tolist() == [record["beta"]["conv3"] for record in history]


def test_an_empty_history_and_one_of_another_space_are_errors(make_history, imdn_choices) -> None:
    with pytest.raises(UserError, match="no epoch yet"):
        series([], imdn_choices, "beta")
    history = make_history(imdn_choices, 2)
    with pytest.raises(UserError, match=r"epoch 1 .* no beta for the choice 'cell1' \(it has conv1, conv2, conv3, conv4\)"):
        series(history, {"cell1": ["a", "b"]}, "beta")
    history[1]["beta"]["conv2"] = [0.5, 0.5]
    with pytest.raises(UserError, match=r"epoch 2 .* 2 values of beta for 'conv2', which has 12 candidates"):
        series(history, imdn_choices, "beta")


def test_the_genotype_decides_who_won() -> None:
    record = {
        "beta": {"edge": [0.6, 0.3, 0.1], "inputs": [0.2, 0.5, 0.3], "gate": [0.1, 0.9]},
        "genotype": {"arch": "DLSR", "genotype": {"edge": "skip", "inputs": ["first", "third"]}},
    }
    assert winners(record, "edge", ["none", "skip", "conv"]) == ("skip",)
    assert winners(record, "inputs", ["first", "second", "third"]) == ("first", "third")
    assert winners(record, "gate", ["closed", "open"]) == ("open",)
