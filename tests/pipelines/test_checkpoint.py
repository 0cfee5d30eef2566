"""Weights: nothing is executed, nothing half-written, nothing loaded that does not fit."""

import hashlib
import os
import pickle
from pathlib import Path

import pytest
import torch
from torch import nn

from voxlate.data_prep.errors import WeightsError
from voxlate.pipelines.checkpoint import load_weights, read_weights, save_weights, sha256_of


def layer(bias: bool = True) -> nn.Linear:
    return nn.Linear(2, 3, bias=bias)


@pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
def test_weights_survive_a_round_trip(name: str, tmp_path: Path) -> None:
    source, copy = layer(), layer()
    save_weights(source.state_dict(), tmp_path / "deep" / name)
    digest = load_weights(copy, tmp_path / "deep" / name)
    assert torch.equal(source.weight, copy.weight) and torch.equal(source.bias, copy.bias)
    assert digest == hashlib.sha256((tmp_path / "deep" / name).read_bytes()).hexdigest()
    assert [path.name for path in (tmp_path / "deep").iterdir()] == [name]


def test_saving_that_fails_keeps_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "w.pt"
    save_weights(layer().state_dict(), file)
    before = sha256_of(file)

    def full_disk(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space"):
        save_weights(layer().state_dict(), file)
    assert sha256_of(file) == before
    assert list(tmp_path.iterdir()) == [file]


class Payload:
    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, ("executed",)


def test_pickled_code_is_not_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"weight": Payload()}, "modern.pt")
    Path("plain.pt").write_bytes(pickle.dumps(Payload(), protocol=2))
    for name in ("modern.pt", "plain.pt"):
        with pytest.raises(WeightsError):
            read_weights(name)
    assert not Path("executed").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"<!DOCTYPE html><html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git-lfs"),
        (b"PK\x03\x04 cut short", "damaged"),
        (b"\x00" * 100, "damaged"),
    ],
)
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_what_is_no_weights_file_is_named(
    content: bytes, message: str, suffix: str, tmp_path: Path
) -> None:
    file = tmp_path / f"w{suffix}"
    file.write_bytes(content)
    with pytest.raises(WeightsError, match=message) as caught:
        read_weights(file)
    assert caught.value.exit_code == 5 and str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_truncated_weights_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "w.pt"
    save_weights(layer().state_dict(), file)
    file.write_bytes(file.read_bytes()[:-200])
    with pytest.raises(WeightsError, match="damaged"):
        read_weights(file)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no such weights"):
        read_weights(tmp_path / "absent.pt")


def test_keys_and_shapes_must_fit_exactly(tmp_path: Path) -> None:
    save_weights(layer(bias=False).state_dict(), tmp_path / "short.pt")
    with pytest.raises(WeightsError, match=r"1 missing \(first: bias\)"):
        load_weights(layer(), tmp_path / "short.pt")
    save_weights(layer().state_dict(), tmp_path / "long.pt")
    with pytest.raises(WeightsError, match=r"1 unknown \(first: bias\)"):
        load_weights(layer(bias=False), tmp_path / "long.pt")
    with pytest.raises(WeightsError, match="size mismatch") as caught:
        load_weights(nn.Linear(2, 4), tmp_path / "long.pt")
    assert "\n" not in str(caught.value)


def test_nested_checkpoints_are_refused(tmp_path: Path) -> None:
    torch.save({"state_dict": layer().state_dict(), "epoch": 3}, tmp_path / "w.pt")
    with pytest.raises(WeightsError, match="flat"):
        read_weights(tmp_path / "w.pt")


@pytest.mark.parametrize("place", [0.2, 0.5, 0.8])
def test_one_changed_bit_is_found(place: float, tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    save_weights({"w": torch.linspace(0, 1, 50_000)}, path)
    data = bytearray(path.read_bytes())
    data[int(place * len(data))] ^= 1
    path.write_bytes(data)
    with pytest.raises(WeightsError, match="checksum") as caught:
        read_weights(path)
    assert caught.value.code == "E_WEIGHTS_DAMAGED" and caught.value.exit_code == 5
