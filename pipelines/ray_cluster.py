"""The Ray cluster that a batch runs on: found or started, and shared out among workers."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from voxlate.data_prep import DeviceError, UsageError

ADDRESS_VARIABLE = "RAY_ADDRESS"
STORE_BYTES = 100_000_000  #: of shared memory; only names and records go through it


@dataclass(frozen=True)
class Places:
    """What Ray is asked for.

    Attributes:
        device: Of each worker.
        workers: How many, at most.
        cpus: For each.
        gpus: For each.
    """

    device: str
    workers: int
    cpus: int
    gpus: int


def choose_places(ray: Any, device: str, workers: int | None) -> Places:
    """Share a cluster out among workers.

    Args:
        ray: The module, connected.
        device: ``auto``, ``cuda`` or ``cpu``.
        workers: As asked for; more than there is room for wait until there is.

    Raises:
        DeviceError: What was named is not there.
    """
    gpus = int(ray.cluster_resources().get("GPU", 0))
    if device not in ("auto", "cuda", "cpu"):
        raise DeviceError(
            f"device {device!r} cannot be chosen, Ray does that",
            "use auto, cuda or cpu",
            code="E_DEVICE",
        )
    if device == "cuda" and not gpus:
        raise DeviceError("the Ray cluster has no GPU", "use auto or cpu", code="E_DEVICE")
    if gpus and device != "cpu":
        return Places("cuda", workers or gpus, 1, 1)
    shares = [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]
    shares = [share for share in shares if share] or [1]
    count = workers or len(shares)
    return Places("cpu", count, max(1, min(shares) // math.ceil(count / len(shares))), 0)


@contextmanager
def ray_connected() -> Iterator[Any]:
    """Connect to the cluster that ``RAY_ADDRESS`` names, or start a Ray for this run alone.

    Such a Ray ends with the run, keeps its logs in a folder that goes with it, and tells nobody.

    Raises:
        UsageError: Ray is not installed, or nothing answers at that address.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError:
        raise UsageError(
            "Ray is not installed",
            "pip install 'voxlate[ray]', or leave --engine out",
            code="E_EXTRA",
        ) from None
    if ray.is_initialized():
        yield ray
        return
    address = os.environ.get(ADDRESS_VARIABLE)
    with ExitStack() as stack:
        more: dict[str, Any] = {"address": address}
        if not address or address == "local":
            folder = stack.enter_context(
                tempfile.TemporaryDirectory(prefix="voxlate-", ignore_cleanup_errors=True)
            )
            more = {
                "address": "local",
                "include_dashboard": False,
                "object_store_memory": STORE_BYTES,
                "_temp_dir": folder,
            }
        try:
            ray.init(log_to_driver=False, logging_level="ERROR", **more)
        except (OSError, RuntimeError, ValueError) as error:
            raise UsageError(
                f"no Ray starts or answers at {more['address']} ({str(error).splitlines()[0]})",
                f"check {ADDRESS_VARIABLE}, or unset it for a Ray of this machine's own",
                code="E_RAY",
            ) from None
        stack.callback(ray.shutdown)
        yield ray
