"""A scan or a volume in, its other contrasts out."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, overload

import torch
from torch import Tensor

from voxlate.data_prep import OutputScale, Preprocessing, Scan, UsageError
from voxlate.networks import TranslationNetwork

from .bundle import Origin, read_bundle
from .case_inputs import read_inputs
from .case_steps import (
    Clock,
    Made,
    Request,
    StoredAs,
    Translation,
    output_scale,
    read_case,
    stem,
)
from .completion import complete, complete_volumes, named_volumes
from .device import autocast_dtype, choose_device, inference_context
from .finish_case import finish_case
from .manifest import further_options
from .one_to_many import OneToMany, Progress, check_steps, resolve_targets
from .samples import check_samples


class Translator:
    """Translates scans (files) and volumes (tensors) with one network on one device.

    Args:
        network: With weights; moved to the device and set to eval mode.
        preprocessing: Takes scans to the network's grid and intensities, and back.
        scheduler: Walks the denoiser's timesteps.
        steps: Denoising steps unless a call says otherwise; 0 for none.
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
        device = str(choose_device(device))  # before the weights are read, and said once
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
        samples: int | None = ...,
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
        samples: int | None = ...,
        case_id: str | None = ...,
        intensity: str | OutputScale = ...,
        stored_as: StoredAs = ...,
        progress: Progress | None = ...,
    ) -> Translation: ...

    @overload
    def __call__(
        self,
        *,
        volumes: Mapping[str, Tensor],
        targets: Sequence[str] | None = ...,
        seed: int = ...,
        steps: int | None = ...,
        samples: int | None = ...,
        case_id: str | None = ...,
        progress: Progress | None = ...,
    ) -> dict[str, Tensor]: ...

    @overload
    def __call__(
        self,
        *,
        volumes: Mapping[str, str | os.PathLike[str] | Scan],
        targets: Sequence[str] | None = ...,
        register: bool = ...,
        seed: int = ...,
        steps: int | None = ...,
        samples: int | None = ...,
        case_id: str | None = ...,
        intensity: str | OutputScale = ...,
        stored_as: StoredAs = ...,
        progress: Progress | None = ...,
    ) -> Translation: ...

    def __call__(
        self,
        scan: str | os.PathLike[str] | Scan | Tensor | None = None,
        source: str = "t1",
        targets: Sequence[str] | None = None,
        *,
        volumes: Mapping[str, Any] | None = None,
        register: bool = False,
        seed: int = 0,
        steps: int | None = None,
        samples: int | None = None,
        case_id: str | None = None,
        intensity: str | OutputScale = "unit",
        stored_as: StoredAs = "float32",
        progress: Progress | None = None,
    ) -> Translation | dict[str, Tensor]:
        """Translate a file, a scan or a volume; or make what a case lacks from all that it has.

        Args:
            scan: NIfTI file; or a scan that was read; or a volume (1, X, Y, Z) in [-1, 1], RAS,
                1 mm, background -1.
            source: Its modality.
            targets: Wanted modalities; by default every other one.
            volumes: In place of a scan: several contrasts of a case, modality to file, scan or
                volume, for a network that takes several.
            register: Of several scans, lay those that lie elsewhere rigidly over the first.
            seed: Same seed, case and target: same noise.
            steps: Denoising steps instead of the translator's.
            samples: Draw so many (2 or more): results are their mean, with their standard
                deviation; see docs/quality.md.
            case_id: Name of the case; by default the file's name, or ``"volume"`` for a tensor.
            intensity: Of a scan's results: ``unit``, ``percentile`` or ``match:REFERENCE``, see
                docs/intensity.md. Volumes stay in [-1, 1].
            stored_as: Voxel type that files of the result will have: ``float32`` or ``scan``.
            progress: Called with (stage, done, in all).

        Returns:
            A ``Translation`` for files or scans; for a volume, one like it for each target, on the
            CPU; for several volumes those too, as they were given. Of several samples a volume's
            deviation is ``<target>_sd`` beside it.

        Raises:
            UsageError: A modality the network does not know, the source as target, nothing to make,
                more contrasts than it takes, an impossible number of steps, or an unknown intensity
                scale.
            ScanError: A scan, or the reference of its intensities, cannot be used.
        """
        if (scan is None) == (volumes is None):
            raise UsageError("no scan, or two kinds", "give a scan or volumes", code="E_NO_INPUT")
        if volumes is not None and any(isinstance(v, Tensor) for v in volumes.values()):
            return complete_volumes(
                self,
                volumes,
                targets,
                seed=seed,
                steps=steps,
                samples=samples,
                case_id=case_id,
                progress=progress,
            )
        if volumes is not None:
            translation = complete(
                self,
                read_inputs(volumes, self.modalities, register=register),
                targets,
                seed=seed,
                steps=steps,
                samples=samples,
                case_id=case_id,
                intensity=intensity,
                stored_as=stored_as,
                progress=progress,
            )
            further = further_options(samples=samples, register=register)
            return replace(translation, further=further)
        assert scan is not None
        source, wanted = resolve_targets(self.modalities, source, targets)
        steps = self.checked_steps(steps)
        further = further_options(samples=check_samples(samples, steps))
        if isinstance(scan, Tensor):
            if scan.ndim != 4 or scan.shape[0] != 1:
                raise ValueError(f"volume must be (1, X, Y, Z), got {tuple(scan.shape)}")
            request = Request(
                case_id or "volume", source, tuple(wanted), seed, steps, further=further
            )
            return named_volumes(self.compute(scan, request, progress), request)
        scale = output_scale(intensity, wanted)
        report = progress or _silent
        report("read", 0, 1)
        ready = read_case(scan, self.preprocessing, modality=source)
        request = Request(
            case_id or stem(ready.scan.path),
            source,
            tuple(wanted),
            seed,
            steps,
            scale,
            stored_as,
            further=further,
        )
        made = self.compute(ready.prepared.volume, request, progress)
        report("restore", 0, 1)
        return finish_case(ready, made, request, self.preprocessing)

    def checked_steps(self, steps: int | None) -> int:
        """Denoising steps as asked for, by default the translator's.

        Raises:
            UsageError: The scheduler has not so many.
        """
        return check_steps(self.scheduler, self.steps if steps is None else steps)

    def compute(self, volume: Tensor, request: Request, progress: Progress | None = None) -> Made:
        """Run the networks on a prepared volume.

        Args:
            volume: (n, X, Y, Z) in [-1, 1], RAS, 1 mm, background -1; a channel for each of the
                request's sources.
            request: With names as ``resolve_targets`` gives them.
            progress: Called with (stage, done, in all).

        Returns:
            The answers, on the CPU.
        """
        clock = Clock(self.device)
        one_to_many = OneToMany(self.network, self.scheduler, steps=request.steps)
        with clock("translate"), inference_context(self.device, self.dtype):
            volumes = one_to_many.samples(
                volume[None].to(self.device, torch.float32),
                source=request.sources,
                targets=request.targets,
                seeds=request.seeds,
                case_id=request.case_id,
                progress=progress,
            ).cpu()
        return Made(volumes.flatten(0, 1), self.device, self.dtype, self.origin, clock.seconds)


def _silent(stage: str, done: int, total: int) -> None:
    """Report nothing."""
