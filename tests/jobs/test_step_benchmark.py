"""The benchmark of search steps from options to table. What it measures is not asserted: that would test the machine."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from sr_nas.build import build_searcher
from sr_nas.commands import benchmark, benchmark_all
from sr_nas.errors import UserError
from sr_nas.jobs import candidate_benchmark, step_benchmark, supernet_benchmark
from sr_nas.jobs.benchmark_targets import step_targets, supernet_targets
from sr_nas.jobs.step_benchmark import THREE_PASSES, case_options, variants
from sr_nas.jobs.step_parts import Parts, terms
from sr_nas.ops.imdn_candidates import IMDN_CANDIDATES
from sr_nas.options.load import differences
from sr_nas.registry import Registry
from tests.conftest import REPOSITORY
from tests.jobs.processes import TINY_SEARCH

CPU = torch.device("cpu")
SMALL = ("--nf", "16", "--batch", "1", "--size", "12", "--rounds", "1", "--threads", "1")
TINY = {"nf": 16, "num_blocks": 1, "candidates": ["conv_3x3", "dsconv_3x3_bn"]}


@pytest.fixture(autouse=True)
def memory_without_a_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each process of its own loads torch."""
    threads = torch.get_num_threads()
    monkeypatch.setattr(step_benchmark, "_peak_apart", lambda *words: 2**20)
    monkeypatch.setattr(supernet_benchmark, "_peak_apart", lambda *words: 2**20)
    yield
    torch.set_num_threads(threads)


def tiny() -> Any:
    return case_options("sac-imdn", 1, 12, TINY)


def test_variants_differ_in_what_they_are_named_after_alone() -> None:
    found = variants(case_options("dlsr", 2, 16, {"nf": 16}), "first")
    plain, fused, three = found.values()
    assert list(found) == ["plain", "fused", THREE_PASSES]
    assert differences(plain.model_dump(), fused.model_dump()) == ["network_g.execution: plain -> fused"]
    assert differences(plain.model_dump(), three.model_dump()) == ["search.alpha_loss: val -> train+val"]
    (second, _) = variants(case_options("dlsr", 2, 16, {"nf": 16}), "second").values()
    assert differences(plain.model_dump(), second.model_dump()) == ["search.order: first -> second"]
    assert list(variants(tiny(), "first")) == ["plain", "fused"]


def test_watching_changes_no_step_and_parts_make_up_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    watched, alone = (build_searcher(variants(tiny(), "first")["fused"], CPU) for _ in range(2))
    parts = Parts(watched, CPU)
    now = [0.0]
    monkeypatch.setattr("sr_nas.jobs.step_parts.time.perf_counter", lambda: now[0])
    # A clock that moves by what is called: 1 for a batch, 7 for gradients set to zero, 2 and 3 for the optimizers.
    for stream in (watched.training, watched.validation):
        monkeypatch.setattr(stream, "next", _ticking(stream.next, now, 1))
    for optimizer in (watched.weight_optimizer, watched.alpha_optimizer):
        monkeypatch.setattr(optimizer, "zero_grad", _ticking(optimizer.zero_grad, now, 7))
    step = step_benchmark._step(watched)
    with parts.watching():
        handles = [
            watched.weight_optimizer.register_step_pre_hook(_ticking(lambda *_: None, now, 2)),
            watched.alpha_optimizer.register_step_pre_hook(_ticking(lambda *_: None, now, 3)),
        ]
        step()
    assert parts.seconds == {"data": 2, "alpha step": 1 + 7 + 3, "optimizers": 5, "weight step": 7 + 2}
    for handle in handles:
        handle.remove()
    before = now[0]
    step()
    assert now[0] == before + 16 and parts.seconds["data"] == 2 and "_batch" not in vars(watched)
    for _ in range(2):
        step_benchmark._step(alone)()
    for one, other in zip(watched.space.parameters(), alone.space.parameters(), strict=True):
        assert torch.equal(one, other)


def _ticking(call: Callable[..., Any], now: list[float], seconds: float) -> Callable[..., Any]:
    def ticking(*words: Any) -> Any:
        now[0] += seconds
        return call(*words)

    return ticking


def test_terms_are_those_of_alphas_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the gradient that each gives, by formula: eq. 8 with lambda_1, and eq. 18."""
    searcher = build_searcher(tiny(), CPU)
    found: list[tuple[torch.Tensor, ...]] = []
    gradients = torch.autograd.grad
    monkeypatch.setattr(torch.autograd, "grad", lambda *words: found.append(gradients(*words)))
    computing = terms(searcher, 1)
    assert list(computing) == ["regularizer", "flops term"]
    for compute in computing.values():
        compute()
    of_logits, of_weights = found
    strength, (weight, table) = searcher.objective.strength(1), searcher.objective.costs["flops"]
    assert torch.allclose(torch.cat(of_logits), torch.full((8,), strength / 8))
    for gradient, costs in zip(of_weights, table.values(), strict=True):
        assert torch.allclose(gradient, weight * costs / costs.sum() / 4)


def test_the_command_measures_every_order_and_variant(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("-opt", str(TINY_SEARCH), "--force_yml", "network_g:candidates=[conv_3x3, dsconv_3x3_bn]", "--rounds", "1")
    assert benchmark.main(["search-step", *words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["sizes"] == {"tiny": {"batch": 2, "size": 8}} and found["machine"]["device"] == "cpu"
    for order in ("first", "second"):
        rows = found["cases"]["tiny"][order]
        assert list(rows) == ["plain", "fused"] and rows["plain"]["ratio"] == 1
        for row in rows.values():
            assert row["parts"].keys() == {"data", "alpha step", "weight step", "optimizers", "regularizer", "flops term"}
            assert 0 < row["parts"]["optimizers"]["share"] < 1
    assert benchmark.main(["search-step", *words, "--order", "first"]) == 0
    printed = capsys.readouterr().out
    assert f"PyTorch {torch.__version__}" in printed and "tiny, 2 LR patches of 8x8" in printed
    assert "target tiny: largest term of alpha's loss / step:" in printed


def test_an_option_file_has_its_own_sizes(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        benchmark.main(["search-step", "-opt", str(REPOSITORY / "options" / "sac_imdn.yml"), "--size", "32"])
    assert "leave out --size" in capsys.readouterr().err


def test_a_thirteenth_candidate_is_there_while_it_is_measured() -> None:
    plan = supernet_benchmark.Plan(1, 12, 1, 1, settings=(("nf", 16), ("num_blocks", 1)))
    assert list(candidate_benchmark.measure("sac-imdn", plan, CPU)) == ["twelve", "conv_1x1", "conv_7x7"]
    assert not candidate_benchmark.MORE.keys() & set(IMDN_CANDIDATES.names())


def test_what_is_lent_to_a_registry_goes_back_whatever_happens() -> None:
    registry: Registry[Any] = Registry("thing", "sr_nas.optim")
    registry.register("own")(len)
    with contextlib.suppress(KeyError), registry.lent({"lent": max}):
        assert registry.get("lent") is max and registry.names() == ["own", "lent"]
        raise KeyError
    assert registry.names() == ["own"]
    with pytest.raises(ValueError, match="'own' is registered twice"), registry.lent({"own": max}):
        pass
    assert registry.get("own") is len


def test_targets_by_hand() -> None:
    def row(ratio: float, peak: int, term: float) -> dict[str, Any]:
        return {"ratio": ratio, "peak_bytes": peak, "parts": {"flops term": {"share": term}, "data": {"share": 0.5}}}

    rows = {"plain": row(1, 100, 0.002), "fused": row(0.4, 36, 0.011) | {"ratio_to_three_passes": 0.28}}
    found = step_targets({"dlsr": {"first": rows}}, {"sac-imdn": {"conv_1x1": {"ratio": 1.02}}})
    assert [(target["found"], target["met"]) for target in found] == [
        (0.011, False),
        (0.4, True),
        (0.28, True),
        (0.36, False),
        (pytest.approx(0.02), True),
    ]
    assert supernet_targets({"sa-imdn": {"fused": {"ratio": 8.1}}})[0]["met"] is False


def test_all_is_one_object_and_a_failure_stops_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {"supernet": ("--case", "sac-imdn", *SMALL), "inference": ("--model", "missing"), "data": ("--images", "4")}
    monkeypatch.setattr(benchmark_all, "SETTINGS", settings)

    def run(what: str, words: tuple[str, ...]) -> int:
        if what == "supernet":
            return benchmark.run(what, words)
        raise UserError(f"{what} {words[-2:]} cannot be measured")

    monkeypatch.setattr(benchmark_all, "run", run)
    assert benchmark.main(["all", "--only", "inference", "supernet", "--json"]) == 1
    printed = capsys.readouterr()
    found = json.loads(printed.out)
    assert list(found) == ["inference", "supernet"] and "cannot be measured" in found["inference"]["error"]
    assert found["supernet"]["cases"]["sac-imdn"]["network"]["ratio"] == 1
    assert "benchmark inference: inference" in printed.err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
@pytest.mark.parametrize("what", ["supernet", "search-step", "data", "all"])
def test_cuda_where_there_is_none_is_refused(what: str) -> None:
    with pytest.raises(UserError, match=r"--device cuda: PyTorch finds no CUDA device"):
        benchmark.main([what, "--device", "cuda"])
