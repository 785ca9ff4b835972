"""Half precision: where it runs, and where it is refused."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sr_nas.errors import UserError
from sr_nas.inference.tiles import upscale
from sr_nas.runs.device import check_precision, resolve_precision


class Loud(nn.Module):
    """Values of 65536, beyond fp16."""

    scale = 1

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1, bias=False)
        nn.init.constant_(self.conv.weight, 65536 / 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x)


def test_the_cpu_takes_fp32_and_bf16_and_refuses_fp16() -> None:
    check_precision(torch.device("cpu"), "fp32")
    check_precision(torch.device("cpu"), "bf16")
    with pytest.raises(UserError, match="the CPU computes in bf16 or fp32"):
        upscale(Loud(), torch.ones(1, 3, 4, 4), device="cpu", precision="fp16")


def test_auto_is_what_the_device_is_good_at(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = torch.device("cuda")
    assert resolve_precision(torch.device("cpu"), "auto") == resolve_precision(torch.device("mps"), "auto") == "fp32"
    for capability, expected in (((8, 0), "bf16"), ((12, 0), "bf16"), ((7, 5), "fp16")):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, capability=capability: capability)
        assert resolve_precision(cuda, "auto") == expected
    assert resolve_precision(torch.device("cpu"), "bf16") == "bf16"
    with pytest.raises(UserError, match="the CPU computes in bf16 or fp32"):
        resolve_precision(torch.device("cpu"), "fp16")


def test_where_autocast_does_not_deliver_the_type_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: torch.no_grad())  # as where it only warns
    with pytest.raises(UserError, match="precision bf16: cpu does not compute in it here; use fp32"):
        check_precision(torch.device("cpu"), "bf16")


def test_an_output_that_is_not_finite_is_an_error() -> None:
    network = Loud()
    assert upscale(network, torch.ones(1, 3, 4, 4), device="cpu").max() == pytest.approx(65536)
    nn.init.constant_(network.conv.weight, torch.nan)
    with pytest.raises(UserError, match="output in fp32 is not finite: its weights are damaged"):
        upscale(network, torch.ones(1, 3, 4, 4), device="cpu")


@pytest.mark.gpu
def test_fp16_runs_on_a_gpu_and_says_where_it_overflows() -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    network, lr = Loud(), torch.full((1, 3, 4, 4), 0.5)
    assert upscale(network, lr, device="cuda", precision="fp16").max() == pytest.approx(32768, rel=1e-3)
    with pytest.raises(UserError, match="in fp16 is not finite: use fp32"):
        upscale(network, torch.ones(1, 3, 4, 4), device="cuda", precision="fp16")
