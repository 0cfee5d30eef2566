"""Scan files in, translations, picture and record out: what the commands do."""

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from voxlate.data_prep import Overrides, parse_output_scale
from voxlate.data_prep.contrasts import read_contrast
from voxlate.data_prep.overrides import NONE

from .case_inputs import missing_targets, read_inputs
from .case_steps import StoredAs, Translation, stem
from .completion import complete, refuse_several
from .layouts import tree_files
from .manifest import further_options
from .one_to_many import resolve_targets
from .outputs import check_outputs, write_translation
from .progress import CaseProgress
from .samples import check_samples
from .translator import Translator

logger = logging.getLogger(__name__)


def convert(
    scan_file: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    source: str = "t1",
    targets: Sequence[str] | None = None,
    bundle: str | os.PathLike[str] | None = None,
    device: str = "auto",
    seed: int = 0,
    steps: int | None = None,
    samples: int | None = None,
    intensity: str = "unit",
    stored_as: StoredAs = "float32",
    overrides: Overrides = NONE,
    overwrite: bool = False,
    quiet: bool = False,
) -> list[Path]:
    """Translate a file and write the results; what is wrong is found as early as it can be.

    Args:
        scan_file: NIfTI file.
        output: Folder; made if absent.
        source: The scan's modality.
        targets: Wanted modalities; by default every other one the bundle knows.
        bundle: Bundle folder; by default the one that comes with voxlate.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:<index>``.
        seed: Same seed, same translation.
        steps: Denoising steps; by default the bundle's.
        samples: Draw so many: results are their mean, with their standard deviation beside it.
        intensity: ``unit``, ``percentile`` or ``match:REFERENCE``, see docs/intensity.md.
        stored_as: Voxel type of the files: ``float32`` or ``scan``, the scan's own.
        overrides: What the user vouches for, where the scan alone would be refused.
        overwrite: Replace outputs that are there.
        quiet: Show no progress.

    Returns:
        The files written, volumes first, then the picture and the record.

    Raises:
        VoxlateError: Anything the user can put right.
    """
    folder, name = Path(output), stem(Path(scan_file))
    check_outputs(folder, [], overwrite=overwrite)
    with CaseProgress(name, quiet=quiet) as progress:
        progress("read", 0, 1)
        scan = read_contrast(scan_file, source.lower(), overrides)
        progress("load the networks", 0, 1)
        translator = Translator.from_bundle(bundle, device=device)
        check_samples(samples, translator.checked_steps(steps))
        source, wanted = resolve_targets(translator.modalities, source, targets)
        files = tree_files(name, wanted, deviations=samples is not None)
        check_outputs(folder, files.names, overwrite=overwrite)
        translation = translator(
            scan,
            source,
            wanted,
            seed=seed,
            steps=steps,
            samples=samples,
            case_id=name,
            intensity=parse_output_scale(intensity, wanted),
            stored_as=stored_as,
            progress=progress,
        )
        progress("write", 0, 1)
        further = further_options(samples=samples, overrides=overrides)
        translation = replace(translation, further=further)
        written = write_translation(translation, folder, files, overwrite=overwrite)
    _tell(translation)
    return written


def convert_case(
    given: Mapping[str, str | os.PathLike[str]],
    output: str | os.PathLike[str],
    *,
    targets: Sequence[str] | None = None,
    register: bool = False,
    bundle: str | os.PathLike[str] | None = None,
    device: str = "auto",
    seed: int = 0,
    steps: int | None = None,
    samples: int | None = None,
    intensity: str = "unit",
    stored_as: StoredAs = "float32",
    overrides: Overrides = NONE,
    overwrite: bool = False,
    quiet: bool = False,
) -> list[Path]:
    """Make what a case lacks from all its files and write the results, named after the first file.

    Args:
        given: Modality to NIfTI file; the first in the bundle's order sets the grid and the name.
        output: Folder; made if absent.
        targets: Wanted modalities; by default every one that is missing.
        register: Lay scans that lie elsewhere rigidly over the first.
        bundle: See ``convert``, as all that follow.
        device: As there.
        seed: As there.
        steps: As there.
        samples: As there.
        intensity: As there.
        stored_as: As there.
        overrides: As there, for every file.
        overwrite: As there.
        quiet: As there.

    Returns:
        The files written, volumes first, then the picture and the record.

    Raises:
        VoxlateError: Anything the user can put right.
    """
    folder = Path(output)
    check_outputs(folder, [], overwrite=overwrite)
    with CaseProgress(", ".join(given), quiet=quiet) as progress:
        progress("load the networks", 0, 1)
        translator = Translator.from_bundle(bundle, device=device)
        check_samples(samples, translator.checked_steps(steps))
        refuse_several(translator.network, list(given))
        progress("read", 0, 1)
        inputs = read_inputs(given, translator.modalities, register=register, overrides=overrides)
        wanted, _ = missing_targets(translator.modalities, list(inputs.scans), targets)
        name = stem(inputs.scans[inputs.reference].path)
        files = tree_files(name, wanted, deviations=samples is not None)
        check_outputs(folder, files.names, overwrite=overwrite)
        translation = complete(
            translator,
            inputs,
            targets,
            seed=seed,
            steps=steps,
            samples=samples,
            case_id=name,
            intensity=intensity,
            stored_as=stored_as,
            progress=progress,
        )
        progress("write", 0, 1)
        further = further_options(samples=samples, register=register, overrides=overrides)
        translation = replace(translation, further=further)
        written = write_translation(translation, folder, files, overwrite=overwrite)
    _tell(translation)
    return written


def _tell(translation: Translation) -> None:
    """Say what the record has of doubts."""
    for warning in translation.warnings:
        logger.warning("%s: %s", translation.case_id, warning)
