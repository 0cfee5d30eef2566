"""What is named must exist, auto falls back and says so, autocast really computes in bfloat16."""

import logging
from pathlib import Path

import pytest
import torch

from voxlate.data_prep.errors import DeviceError
from voxlate.pipelines import device as devices
from voxlate.pipelines.device import (
    autocast_dtype,
    choose_device,
    cpu_flags,
    cpu_has_bfloat16,
    inference_context,
)

CPU = torch.device("cpu")


@pytest.fixture
def no_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.mark.usefixtures("no_cuda")
def test_auto_falls_back_to_the_cpu_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        assert choose_device("auto") == CPU
    assert "using the CPU" in caplog.text


@pytest.mark.usefixtures("no_cuda")
@pytest.mark.parametrize("name", ["cuda", "cuda:1"])
def test_named_device_that_is_not_there_is_refused(name: str) -> None:
    with pytest.raises(DeviceError, match=f"'{name}' is not there, 0 CUDA") as caught:
        choose_device(name)
    assert caught.value.exit_code == 6


def test_index_past_the_last_device_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_device("cuda:1") == torch.device("cuda", 1)
    with pytest.raises(DeviceError, match="2 CUDA"):
        choose_device("cuda:2")


@pytest.mark.parametrize("name", ["gpu", "", "cuda:x", "meta"])
def test_unknown_device_is_refused(name: str) -> None:
    with pytest.raises(DeviceError, match="unknown"):
        choose_device(name)


def test_cpu_flags_are_read_from_linux_and_empty_elsewhere(tmp_path: Path) -> None:
    file = tmp_path / "cpuinfo"
    file.write_text("processor\t: 0\nflags\t\t: fpu avx512_bf16 amx_tile amx_bf16\n")
    assert cpu_flags(file) == {"fpu", "avx512_bf16", "amx_tile", "amx_bf16"}
    assert cpu_flags(tmp_path / "absent") == set()


@pytest.mark.parametrize(("flags", "expected"), [({"avx512_bf16"}, True), ({"avx2"}, False)])
def test_bfloat16_needs_hardware(
    flags: set[str], expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda: False, raising=False)
    monkeypatch.setattr(devices, "cpu_flags", lambda: flags)
    cpu_has_bfloat16.cache_clear()
    try:
        assert cpu_has_bfloat16() is (expected and torch.backends.mkldnn.is_available())
    finally:
        cpu_has_bfloat16.cache_clear()


def test_inference_context_computes_in_the_chosen_type_without_gradients() -> None:
    layer = torch.nn.Linear(4, 4)
    x = torch.ones(1, 4)
    with inference_context(CPU, torch.bfloat16):
        reduced = layer(x)
    with inference_context(CPU, torch.float32):
        full = layer(x)
    assert reduced.dtype is torch.bfloat16 and reduced.is_inference()
    assert full.dtype is torch.float32 and not full.requires_grad
    with inference_context(CPU):
        assert layer(x).dtype is autocast_dtype(CPU)
