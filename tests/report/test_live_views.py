"""What a person reads while a search or a training runs."""

from __future__ import annotations

import io
import math

import pytest
from rich.console import Console, RenderableType

from sr_nas.report.progress import SearchView, TrainView

LOSSES = {"train": 0.03125, "task": 0.0298123, "regularizer": 0.0012, "cost": 2.1e-05, "total": 0.0310333}


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def capable_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")


def terminal(width: int = 80, height: int = 24) -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=width, height=height, legacy_windows=False)


def plain() -> Console:
    return Console(file=io.StringIO(), force_terminal=False, width=80)


def written(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def lines_of(panel: RenderableType, width: int) -> list[str]:
    """The panel as text."""
    console = Console(file=io.StringIO(), width=width, color_system=None, force_terminal=True, legacy_windows=False)
    console.print(panel)
    return written(console).splitlines()


# Search, not on a terminal


def test_one_line_per_epoch_with_all_its_numbers(make_history, imdn_choices) -> None:
    console, clock = plain(), Clock()
    record = make_history(imdn_choices, 3)[2]
    record["genotype"]["genotype"] = {
        "conv1": "conv_3x3",
        "conv2": "dsconv_5x5_bn",
        "conv3": "conv_5x5",
        "conv4": "dil_dsconv_3x3",
    }
    with SearchView(console, "run", imdn_choices, steps_total=3000, start=60, clock=clock) as view:
        for step in range(1, 31):
            clock.now += 0.5
            view.step(3, 100, step, 30, LOSSES)
            assert written(console) == ""
        view.epoch(record)
    # 90 of 3000 steps are done, the 30 of this process took half a second each: 2910 * 0.5 s = 24 min 15 s.
    assert written(console) == (
        "epoch 3/100  train 0.03125  task 0.0298123  regularizer 0.0012  cost 2.1e-05  total 0.0310333  lambda 0.6  "
        "IMDN(conv_3x3, dsconv_5x5_bn, conv_5x5, dil_dsconv_3x3)  parameters 715,176  "
        "MACs, LR input 1280x720 654.5 G  MACs, HR output 1280x720 40.9 G  took 0:00:12  time left 0:24:15\n"
    )


def test_messages_are_neither_wrapped_nor_read_as_markup(imdn_choices) -> None:
    console = plain()
    text = "checkpoint [bold]written[/bold] to experiments/" + "a long folder name/" * 10
    with SearchView(console, "run", imdn_choices, 100) as view:
        view.message(text)
    assert written(console) == text + "\n"


def test_lines_within_a_long_epoch(imdn_choices) -> None:
    console, clock = plain(), Clock()
    with SearchView(console, "run", imdn_choices, 500, start=250, print_freq=100, clock=clock) as view:
        for step in range(1, 251):
            clock.now += 0.5
            view.step(2, 2, step, 250, LOSSES)
    first, second = written(console).splitlines()
    assert first.startswith("epoch 2/2  step 100/250  train 0.03125  task 0.0298123")
    assert "step 200/250" in second
    assert second.endswith("time left 0:00:25")


def test_a_dumb_terminal_gets_lines(monkeypatch: pytest.MonkeyPatch, make_history, imdn_choices) -> None:
    monkeypatch.setenv("TERM", "dumb")
    console = terminal()
    with SearchView(console, "run", imdn_choices, 100) as view:
        view.epoch(make_history(imdn_choices, 1)[0])
    assert written(console).startswith("epoch 1  train 0.03125")
    assert "\x1b" not in written(console)


# Search, on a terminal


def search_panel(choices, record, width: int, height: int) -> list[str]:
    clock = Clock()
    # Without colours, what of a bar is not filled is blank.
    console = Console(
        file=io.StringIO(), force_terminal=True, width=width, height=height, color_system=None, legacy_windows=False
    )
    view = SearchView(console, "imdn x4", choices, steps_total=3000, start=450, clock=clock)
    clock.now = 17 * 0.4
    view.step(16, 100, 17, 30, LOSSES)
    view.epoch(record)
    return lines_of(view.panel(width, height - 1), width)


def test_the_panel_of_four_choices_fits_80x24(make_history, imdn_choices) -> None:
    record = make_history(imdn_choices, 15)[-1]
    lines = search_panel(imdn_choices, record, 80, 24)
    text = "\n".join(lines)
    assert len(lines) == 23
    assert {len(line) for line in lines} == {80}
    assert "…" not in text
    # (3000 - 467) steps of 0.4 s = 16 min 53 s.
    for expected in (
        "imdn x4",
        "467/3,000",
        "0:16:53 left",
        "epoch 16 of 100",
        "17/30",
        "400.0 ms a step",
        *map(str, LOSSES.values()),
    ):
        assert expected in text
    assert "after epoch 15   IMDN with 715,176 parameters   lambda 3" in text
    assert "MACs, LR input 1280x720  654.5 G   MACs, HR output 1280x720  40.9 G" in text
    for label, name in record["genotype"]["genotype"].items():
        (row,) = [line.split() for line in lines if f" {label} " in line]
        assert row[1:3] == [label, name]
        assert row[-2] == f"{max(record['beta'][label]):.3f}"


def test_three_candidates_per_choice_fill_80x24_strongest_first(make_history, imdn_choices) -> None:
    record = make_history(imdn_choices, 15)[-1]
    rows = [line.split() for line in search_panel(imdn_choices, record, 80, 24)[10:22]]
    strongest = sorted(zip(record["beta"]["conv1"], imdn_choices["conv1"], strict=True), reverse=True)[:3]
    assert [row[-4] for row in rows[:3]] == [name for _, name in strongest]
    assert [row[-2] for row in rows[:3]] == [f"{beta:.3f}" for beta, _ in strongest]


def test_bars_are_as_long_as_beta_says(make_history) -> None:
    choices = {"conv1": ["a", "b", "c"], "conv2": ["a", "b"]}
    record = make_history(choices, 1)[0]
    record["beta"] = {"conv1": [0.1, 0.6, 0.3], "conv2": [0.8, 0.2]}
    record["genotype"]["genotype"] = {"conv1": "b", "conv2": "a"}
    lengths = [line.count("━") + line.count("╸") / 2 for line in search_panel(choices, record, 80, 24)[10:15]]
    assert lengths[3] > 40
    for length, beta in zip(lengths, [0.6, 0.3, 0.1, 0.8, 0.2], strict=True):
        assert abs(length - lengths[3] * beta / 0.8) <= 0.5


def test_what_the_genotype_keeps_is_shown_even_if_it_is_weakest(make_history, imdn_choices) -> None:
    record = make_history(imdn_choices, 15)[-1]
    weakest = min(zip(record["beta"]["conv2"], imdn_choices["conv2"], strict=True))[1]
    record["genotype"]["genotype"]["conv2"] = weakest
    (row,) = [line for line in search_panel(imdn_choices, record, 80, 24) if " conv2 " in line]
    assert f" {weakest} " in row


@pytest.mark.parametrize("height", [18, 19, 20])
def test_both_inputs_that_are_kept_are_shown_where_room_is_short(make_history, height: int) -> None:
    choices = {f"cell{number}": ["one", "two", "three", "four"] for number in range(6)}
    record = make_history(choices, 1)[0]
    record["genotype"]["genotype"]["cell2"] = ["two", "four"]
    lines = search_panel(choices, record, 50, height)
    assert len(lines) < height
    (first,) = [index for index, line in enumerate(lines) if " cell2 " in line]
    assert {lines[first].split()[2], lines[first + 1].split()[1]} == {"two", "four"}


@pytest.mark.parametrize(("width", "height"), [(80, 24), (100, 30), (160, 50), (200, 24)])
def test_fourteen_choices_show_every_winner_and_fit(make_history, width: int, height: int) -> None:
    choices = {f"edge{number}": [f"operation_{index}" for index in range(8)] for number in range(14)}
    record = make_history(choices, 15)[-1]
    lines = search_panel(choices, record, width, height)
    text = " ".join(" ".join(lines).split())
    assert len(lines) < height
    assert {len(line) for line in lines} == {width}
    for label, name in record["genotype"]["genotype"].items():
        assert f" {label} {name} " in text


def test_the_panel_follows_the_epochs_and_the_window(make_history, imdn_choices) -> None:
    view = SearchView(terminal(), "run", imdn_choices, 300)
    view.step(1, 10, 30, 30, LOSSES)
    for record in make_history(imdn_choices, 2):
        view.epoch(record)
        text = " ".join(" ".join(lines_of(view.panel(80, 24), 80)).split())
        assert f" after epoch {record['epoch']} " in text
        for label, name in record["genotype"]["genotype"].items():
            assert f" {label} {name} " in text
    text = "\n".join(lines_of(view.panel(160, 50), 160))
    assert all(f"{beta:.3f}" in text for label in imdn_choices for beta in record["beta"][label])


def test_choices_without_room_are_counted(make_history) -> None:
    choices = {f"edge{number}": ["one", "two"] for number in range(100)}
    lines = search_panel(choices, make_history(choices, 1)[0], 80, 24)
    shown = sum(line.count(" edge") for line in lines)
    assert len(lines) == 23
    assert shown < 100
    assert f"and {100 - shown} more: enlarge" in "\n".join(lines)


def test_a_tiny_window_and_a_diverged_search_break_nothing(make_history, imdn_choices) -> None:
    record = make_history(imdn_choices, 1)[0]
    record["beta"]["conv1"] = [math.nan] * 12
    assert "nan" in "\n".join(search_panel(imdn_choices, record, 80, 24))
    search_panel(imdn_choices, record, 20, 5)
    console = terminal(20, 5)
    with SearchView(console, "run", imdn_choices, 100) as view:
        view.step(1, 1, 1, 100, LOSSES)
        view.epoch(record)
    assert written(console)


def drawing_times(view: SearchView, clock: Clock, cost: float, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Make every panel of a view take ``cost`` seconds of its clock; return the list of the times when it is drawn."""
    times: list[float] = []

    def panel(width: int, height: int) -> str:
        times.append(clock.now)
        clock.now += cost
        return "panel"

    monkeypatch.setattr(view, "panel", panel)
    return times


def test_a_cheap_panel_is_drawn_four_times_a_second(monkeypatch: pytest.MonkeyPatch, imdn_choices) -> None:
    clock = Clock()
    view = SearchView(terminal(), "run", imdn_choices, 10_000, clock=clock)
    times = drawing_times(view, clock, 0.0, monkeypatch)
    with view:
        at_start = len(times)
        for step in range(1, 161):
            clock.now += 1 / 16
            view.step(1, 1, step, 10_000, LOSSES)
        assert len(times) - at_start == 10 * 4


def test_a_costly_panel_takes_one_percent_of_the_time(monkeypatch: pytest.MonkeyPatch, imdn_choices) -> None:
    clock = Clock()
    view = SearchView(terminal(), "run", imdn_choices, 10_000, clock=clock)
    times = drawing_times(view, clock, 0.02, monkeypatch)
    with view:
        for step in range(1, 2001):
            clock.now += 0.05
            view.step(1, 1, step, 10_000, LOSSES)
        assert 0.008 <= len(times) * 0.02 / clock.now <= 0.0101


def test_the_last_state_stays_on_the_screen(make_history, imdn_choices) -> None:
    console, clock = terminal(), Clock()
    record = make_history(imdn_choices, 1)[0]
    with SearchView(console, "run", imdn_choices, 30, clock=clock) as view:
        for step in range(1, 31):
            clock.now += 0.001
            view.step(1, 1, step, 30, LOSSES)
        view.epoch(record)
        assert "30/30" not in written(console)
    assert "30/30" in written(console)
    assert "715,176 parameters" in written(console)


def test_an_exception_goes_through_and_frees_the_terminal(imdn_choices) -> None:
    console = terminal()
    with pytest.raises(KeyboardInterrupt), SearchView(console, "run", imdn_choices, 30):
        raise KeyboardInterrupt
    assert written(console).endswith("\x1b[?25h")


# Training


def test_training_prints_every_print_freq_iterations_and_the_last() -> None:
    console, clock = plain(), Clock()
    with TrainView(console, "run", total=1025, start=1000, print_freq=10, clock=clock) as view:
        for iteration in range(1001, 1026):
            clock.now += 2.0
            view.step(iteration, 1025, {"loss": 0.0234375}, 2e-4)
    assert written(console).splitlines() == [
        "iteration 1,010/1,025  loss 0.0234375  learning rate 0.0002  2.00 s an iteration  time left 0:00:30",
        "iteration 1,020/1,025  loss 0.0234375  learning rate 0.0002  2.00 s an iteration  time left 0:00:10",
        "iteration 1,025/1,025  loss 0.0234375  learning rate 0.0002  2.00 s an iteration  time left 0:00:00",
    ]


def test_validation_lines() -> None:
    console = plain()
    with TrainView(console, "run", 10_000) as view:
        view.validation(5000, {"Set5": {"psnr": 32.2104, "ssim": 0.89481}, "Set14": {"psnr": 28.58, "ssim": 0.7811}}, best=True)
        view.validation(10_000, {"Set5": {"psnr": 32.1, "ssim": 0.89}}, best=False)
    assert written(console).splitlines() == [
        "validation at 5,000  Set5 32.210 dB / 0.8948  Set14 28.580 dB / 0.7811  best so far",
        "validation at 10,000  Set5 32.100 dB / 0.8900",
    ]


def test_the_panel_of_a_training_shows_latest_and_best() -> None:
    clock = Clock()
    view = TrainView(terminal(), "retrain", 500_000, start=12_000, clock=clock)
    clock.now = 345 * 0.25
    view.step(12_345, 500_000, {"loss": 0.0234375}, 2e-4)
    view.validation(5000, {"Set5": {"psnr": 32.21, "ssim": 0.8948}}, best=True)
    view.validation(10_000, {"Set5": {"psnr": 32.1, "ssim": 0.89}}, best=False)
    lines = lines_of(view.panel(80, 23), 80)
    text = "\n".join(lines)
    assert {len(line) for line in lines} == {80}
    # (500000 - 12345) iterations of 0.25 s = 121914 s.
    for expected in (
        "12,345/500,000",
        "1 day, 9:51:54 left",
        "0.0234375",
        "0.0002",
        "250.0 ms",
        "latest, at 10,000",
        "best, at 5,000",
    ):
        assert expected in text
    (row,) = [line for line in lines if "Set5" in line]
    assert row.index("32.100 dB / 0.8900") < row.index("32.210 dB / 0.8948")
