"""Which device computes, and in which number format."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import torch

from voxlate.data_prep import DeviceError

logger = logging.getLogger(__name__)


def choose_device(name: str = "auto") -> torch.device:
    """Turn a name into a device that exists.

    ``auto`` takes the current CUDA device, else the CPU, and says so. What is named must exist.

    Args:
        name: ``auto``, ``cpu``, ``cuda`` or ``cuda:<index>``.

    Raises:
        DeviceError: The name is no device, or the device is not there.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", torch.cuda.current_device())
        logger.info("no CUDA device found, using the CPU")
        return torch.device("cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise DeviceError(
            f"device {name!r} is unknown", "use auto, cpu, cuda or cuda:<index>", code="E_DEVICE"
        )
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            raise DeviceError(
                f"device {name!r} is not there, {count} CUDA device(s) can be seen",
                "use auto or cpu, or check the driver and CUDA_VISIBLE_DEVICES",
                code="E_DEVICE",
            )
        if device.index is None:
            return torch.device("cuda", torch.cuda.current_device())
    return device


def autocast_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where the device computes in it, else float32."""
    if device.type == "cuda":
        native = torch.cuda.get_device_capability(device) >= (8, 0)
        return torch.bfloat16 if native else torch.float32
    return torch.bfloat16 if device.type == "cpu" and cpu_has_bfloat16() else torch.float32


@cache
def cpu_has_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 matrices in hardware (AMX or AVX512-BF16)."""
    if not torch.backends.mkldnn.is_available():
        return False
    for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"):
        probe = getattr(torch.cpu, name, None)
        if probe is not None and probe():
            return True
    return bool({"amx_bf16", "avx512_bf16"} & cpu_flags())


def cpu_flags(file: Path = Path("/proc/cpuinfo")) -> set[str]:
    """Instruction sets as Linux lists them; empty elsewhere."""
    try:
        text = file.read_text(encoding="ascii", errors="ignore")
    except OSError:
        return set()
    return next(
        (set(line.partition(":")[2].split()) for line in text.splitlines() if line[:5] == "flags"),
        set(),
    )


@contextmanager
def inference_context(device: torch.device, dtype: torch.dtype | None = None) -> Iterator[None]:
    """No gradients, and autocast to ``dtype`` (default: what ``autocast_dtype`` says)."""
    dtype = autocast_dtype(device) if dtype is None else dtype
    reduced = dtype is not torch.float32
    with (
        torch.inference_mode(),
        torch.autocast(device.type, dtype=dtype if reduced else torch.bfloat16, enabled=reduced),
    ):
        yield
