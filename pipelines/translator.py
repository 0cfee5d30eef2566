"""A scan or a volume in, its other contrasts out."""

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from scipy import ndimage
from torch import Tensor

from voxlate.data_prep import (
    Preprocessing,
    Record,
    Scan,
    ScanError,
    UsageError,
    foreground,
    read_scan,
)
from voxlate.networks import TranslationNetwork

from .bundle import Origin, read_bundle
from .device import autocast_dtype, choose_device, inference_context
from .one_to_many import BACKGROUND, OneToMany, Progress, resolve_targets

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Translation:
    """One scan's translations, with what is needed to repeat them.

    Attributes:
        scan: The scan as read.
        source: Its modality.
        volumes: By target, float32 on the scan's own grid: 0 and 1 are the 0.5th and 99.5th
            percentile of the target contrast's foreground, background is 0.
        case_id: Name of the case, part of the noise's seed.
        seed: The user's seed.
        steps: Denoising steps; 0 is the prior alone.
        device: Where it was computed.
        dtype: The number format of the networks.
        skull_stripped: Whether the scan's background was cleared, and so the translations' too.
        origin: The bundle, where there is one.
        seconds: By stage.
        warnings: What was tolerated or is doubtful.
    """

    scan: Scan
    source: str
    volumes: dict[str, FloatArray]
    case_id: str
    seed: int
    steps: int
    device: torch.device
    dtype: torch.dtype
    skull_stripped: bool
    origin: Origin | None
    seconds: dict[str, float] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    def __getitem__(self, target: str) -> FloatArray:
        return self.volumes[target]


class Translator:
    """Translates scans (files) and volumes (tensors) with one network on one device.

    Args:
        network: With weights; moved to the device and set to eval mode.
        preprocessing: Takes scans to the network's grid and intensities, and back.
        scheduler: Walks the denoiser's timesteps.
        steps: Denoising steps unless a call says otherwise; 0 is the prior alone.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:<index>``.
        dtype: Number format of the networks; by default what the device is good at.
        origin: Where the weights come from.
    """

    def __init__(
        self,
        network: TranslationNetwork,
        *,
        preprocessing: Preprocessing,
        scheduler: Any,
        steps: int,
        device: str = "auto",
        dtype: torch.dtype | None = None,
        origin: Origin | None = None,
    ) -> None:
        self.device = choose_device(device)
        self.dtype = autocast_dtype(self.device) if dtype is None else dtype
        self.network = network.to(self.device).eval()
        self.preprocessing, self.scheduler, self.steps = preprocessing, scheduler, steps
        self.origin = origin

    @classmethod
    def from_bundle(
        cls, path: str | os.PathLike[str] | None = None, *, device: str = "auto"
    ) -> "Translator":
        """Build from a bundle's folder; by default from the one that comes with voxlate.

        Raises:
            WeightsError: The bundle or its weights cannot be used.
            DeviceError: The device is not there.
        """
        choose_device(device)
        parts, origin = read_bundle(path)
        return cls(
            parts.network,
            preprocessing=parts.preprocessing,
            scheduler=parts.scheduler,
            steps=parts.steps,
            device=device,
            origin=origin,
        )

    @property
    def modalities(self) -> tuple[str, ...]:
        """The contrasts that this network knows, in order."""
        return tuple(self.network.modalities)

    @overload
    def __call__(
        self,
        scan: Tensor,
        source: str = ...,
        targets: Sequence[str] | None = ...,
        *,
        seed: int = ...,
        steps: int | None = ...,
        case_id: str | None = ...,
        progress: Progress | None = ...,
    ) -> dict[str, Tensor]: ...

    @overload
    def __call__(
        self,
        scan: str | os.PathLike[str] | Scan,
        source: str = ...,
        targets: Sequence[str] | None = ...,
        *,
        seed: int = ...,
        steps: int | None = ...,
        case_id: str | None = ...,
        progress: Progress | None = ...,
    ) -> Translation: ...

    def __call__(
        self,
        scan: str | os.PathLike[str] | Scan | Tensor,
        source: str = "t1",
        targets: Sequence[str] | None = None,
        *,
        seed: int = 0,
        steps: int | None = None,
        case_id: str | None = None,
        progress: Progress | None = None,
    ) -> Translation | dict[str, Tensor]:
        """Translate a file, a scan or a volume.

        Args:
            scan: NIfTI file; or a scan that was read; or a volume (1, X, Y, Z) in [-1, 1], RAS,
                1 mm, background -1.
            source: Its modality.
            targets: Wanted modalities; by default every other one.
            seed: Same seed, case and target: same noise.
            steps: Denoising steps instead of the translator's.
            case_id: Name of the case; by default the file's name, or ``"volume"`` for a tensor.
            progress: Called with (stage, done, in all).

        Returns:
            A ``Translation`` for a file or scan; for a volume, one like it for each target, on the
            CPU.

        Raises:
            UsageError: A modality the network does not know, the source as target, or an impossible
                number of steps.
            ScanError: The scan cannot be used.
        """
        source, wanted = resolve_targets(self.modalities, source, targets)
        steps = self.steps if steps is None else steps
        most = self.scheduler.num_used_timesteps
        if not 0 <= steps <= most:
            raise UsageError(
                f"{steps} denoising steps are not possible",
                f"give 0 to {most}",
                code="E_STEPS",
            )
        one_to_many = OneToMany(self.network, self.scheduler, steps=steps)
        if isinstance(scan, Tensor):
            if scan.ndim != 4 or scan.shape[0] != 1:
                raise ValueError(f"volume must be (1, X, Y, Z), got {tuple(scan.shape)}")
            with inference_context(self.device, self.dtype):
                made = one_to_many(
                    scan[None].to(self.device, torch.float32),
                    source=source,
                    targets=wanted,
                    seed=seed,
                    case_id=case_id or "volume",
                    progress=progress,
                )
            return dict(zip(wanted, made.cpu(), strict=True))

        clock = _Clock(self.device)
        report = progress or _silent
        report("read", 0, 1)
        with clock("read"):
            if not isinstance(scan, Scan):
                scan = read_scan(scan)
        case_id = case_id or stem(scan.path)
        report("prepare", 0, 1)
        with clock("prepare"):
            prepared = self.preprocessing.apply(scan)
        with clock("translate"), inference_context(self.device, self.dtype):
            made = one_to_many(
                prepared.volume[None].to(self.device),
                source=source,
                targets=wanted,
                seed=seed,
                case_id=case_id,
                progress=progress,
            ).cpu()
        report("restore", 0, 1)
        with clock("restore"):
            stripped, inside = cleared_background(scan)
            volumes = {
                target: restore(volume, prepared.record, self.preprocessing, scan, inside)
                for target, volume in zip(wanted, made, strict=True)
            }
        return Translation(
            scan=scan,
            source=source,
            volumes=volumes,
            case_id=case_id,
            seed=seed,
            steps=steps,
            device=self.device,
            dtype=self.dtype,
            skull_stripped=stripped,
            origin=self.origin,
            seconds=clock.seconds,
            warnings=scan.warnings,
        )


def stem(path: Path) -> str:
    """A scan's file name without ``.nii`` or ``.nii.gz``."""
    name = path.name
    for suffix in (".nii.gz", ".nii"):
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return name


def cleared_background(scan: Scan) -> tuple[bool, npt.NDArray[np.bool_]]:
    """Whether everything around the head has one value (skull stripped), and where the head is.

    Holes inside the head belong to it.
    """
    inside = foreground(scan.data, scan.spacing)
    outside = scan.data[~inside]
    stripped = outside.size > 0 and bool((outside == outside[0]).all())
    if not stripped:
        return False, np.ones(scan.shape, dtype=bool)
    return True, np.asarray(ndimage.binary_fill_holes(inside), dtype=bool)


def restore(
    volume: Float[Tensor, "1 x y z"],
    record: Record,
    preprocessing: Preprocessing,
    scan: Scan,
    inside: npt.NDArray[np.bool_],
) -> FloatArray:
    """From [-1, 1] on the network's grid to [0, 1] on the scan's own, 0 outside the mask.

    Raises:
        ScanError: The networks made something that is no image.
    """
    if not bool(torch.isfinite(volume).all()):
        raise ScanError(
            "the networks made NaN or infinite values of it",
            "check the scan, or try --device cpu",
            code="E_OUTPUT_NONFINITE",
            file=scan.path,
        )
    own = preprocessing.restore(volume, record, background=BACKGROUND)
    return np.where(inside, (own + 1) / 2, 0).clip(0, 1).astype(np.float32)


class _Clock:
    """Seconds of each stage, the device's queue included."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.seconds = device, dict[str, float]()

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.seconds[stage] = round(time.perf_counter() - start, 3)


def _silent(stage: str, done: int, total: int) -> None:
    """Report nothing."""
