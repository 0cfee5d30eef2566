"""All files of a case, or none of them."""

import contextlib
import io
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from voxlate.data_prep import OutputError, write_atomically, write_scan
from voxlate.data_prep.atomic_file import sync_folder
from voxlate.data_prep.writing import refuse_long_name

from .bids import sidecar
from .case_steps import FloatArray, Translation
from .checkpoint import sha256_of
from .layouts import CaseFiles
from .qc_picture import draw_qc
from .sidecar import describe


def check_outputs(folder: Path, names: Sequence[str], *, overwrite: bool) -> None:
    """Refuse early what could not be written at the end.

    Raises:
        OutputError: The folder is a file or read-only, a name is too long, or an output is there
            already.
    """
    for name in names:
        refuse_long_name(folder / name)
    existing_parent = folder
    while not existing_parent.exists() and existing_parent != existing_parent.parent:
        existing_parent = existing_parent.parent
    if not existing_parent.is_dir():
        raise OutputError(
            f"{existing_parent.name} is a file", "name a folder", code="E_OUTPUT", file=folder
        )
    if not os.access(existing_parent, os.W_OK | os.X_OK):
        raise OutputError(
            "no permission to write there", "name another folder", code="E_OUTPUT", file=folder
        )
    if overwrite:
        return
    for name in names:
        if (folder / name).exists():
            raise OutputError(
                "this output is there already",
                "add --overwrite or name another folder",
                code="E_EXISTS",
                file=folder / name,
            )


@contextmanager
def staged(
    folder: Path, names: Sequence[str], *, overwrite: bool, staging_name: str | None = None
) -> Iterator[Path]:
    """Give a hidden folder to write into; move its files on only when the block succeeds.

    A failure, or an interruption, leaves ``folder`` as it was: not there, if it was not. The last
    of ``names`` gets its name after all others are on the disk: where it is, they are. For that the
    block writes with ``write_atomically``.

    Args:
        folder: Made if absent.
        names: Files that the block makes, in the order in which they appear.
        overwrite: Replace files that are there.
        staging_name: Of the hidden folder; what an earlier run left under that name is deleted. By
            default a name of its own.

    Raises:
        OutputError: Something cannot be written, or an output has appeared meanwhile.
    """
    check_outputs(folder, names, overwrite=overwrite)
    created = _missing(folder)
    done = False
    staging = folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if staging_name is None:
            staging = Path(tempfile.mkdtemp(prefix=".voxlate-", dir=folder))
        else:
            staging = folder / staging_name
            shutil.rmtree(staging, ignore_errors=True)
            staging.mkdir()
        yield staging
        check_outputs(folder, names, overwrite=overwrite)
        for name in names[:-1]:
            os.replace(staging / name, folder / name)
        sync_folder(folder)
        os.replace(staging / names[-1], folder / names[-1])
        sync_folder(folder)
        done = True
    except OSError as error:
        raise OutputError(
            f"cannot be written ({error.strerror or error})",
            "check the folder, its permissions and the free space",
            code="E_OUTPUT",
            file=folder,
        ) from error
    finally:
        if staging != folder:
            shutil.rmtree(staging, ignore_errors=True)
        if not done:
            for path in created:  # innermost first; one that others have filled stays
                with contextlib.suppress(OSError):
                    path.rmdir()


def write_translation(
    translation: Translation,
    root: Path,
    files: CaseFiles,
    *,
    overwrite: bool = False,
    staging_name: str | None = None,
) -> list[Path]:
    """Write a case: volumes, picture, sidecars, and as the last of all the record.

    Args:
        translation: What to write.
        root: The output folder.
        files: What its files are called.
        overwrite: Replace files that are there.
        staging_name: See ``staged``.

    Returns:
        The files, volumes first.

    Raises:
        OutputError: They cannot be written, or are there already.
    """
    folder = root / files.folder
    with staged(folder, files.names, overwrite=overwrite, staging_name=staging_name) as staging:
        dtype = translation.scan.dtype if translation.stored_as == "scan" else "float32"

        def written(name: str, volume: FloatArray, description: str) -> dict[str, Any]:
            path = staging / Path(name).name
            write_scan(path, volume, translation.scan, dtype=dtype, description=description)
            return file_entry(path)

        outputs = {
            target: written(
                files.volumes[target], volume, f"synthetic {target} by voxlate, research only"
            )
            for target, volume in translation.volumes.items()
        }
        deviations = {
            target: written(
                files.deviations[target],
                volume,
                f"SD of {len(translation.seeds)} synthetic {target} by voxlate",
            )
            for target, volume in translation.deviations.items()
        }
        picture = None
        others = {name: scan.data for name, scan in translation.others.items()}
        if files.picture is not None:
            path = staging / Path(files.picture).name
            drawn = io.BytesIO()
            draw_qc(
                drawn,
                {translation.source: translation.scan.data, **others},
                {target: translation.windowed(target) for target in translation.volumes},
                translation.scan.affine,
                title=path.name.removesuffix("_qc.png"),
            )
            with write_atomically(path) as file:
                file.write(drawn.getvalue())
            picture = file_entry(path)
        record = describe(translation, outputs, picture, deviations)
        for volume_name, name in files.sidecars.items():
            target = volume_name.removesuffix("_sd")
            spread = target != volume_name
            content = sidecar(record, target, _sources(translation), deviation=spread)
            _write_json(staging / Path(name).name, content)
        _write_json(staging / Path(files.record).name, record)
    return [folder / name for name in files.names]


def _sources(translation: Translation) -> list[str]:
    """Paths of the scans below their data set, in which the case's id is the first one's."""
    folder, first = PurePosixPath(translation.case_id).parent, translation.scan.path
    others = [
        os.path.relpath(scan.path.absolute(), first.absolute().parent)
        for scan in translation.others.values()
    ]
    return [
        os.path.normpath(folder / Path(name).as_posix()).replace(os.sep, "/")
        for name in (first.name, *others)
    ]


def file_entry(path: Path) -> dict[str, Any]:
    """Name, size and checksum of a file, for the record."""
    return {"File": path.name, "Bytes": path.stat().st_size, "SHA256": sha256_of(path)}


def _write_json(path: Path, content: dict[str, Any]) -> None:
    with write_atomically(path) as file:
        file.write((json.dumps(content, indent=2) + "\n").encode())


def _missing(folder: Path) -> list[Path]:
    """The folders that would have to be made, innermost first."""
    missing = []
    while not folder.exists() and folder != folder.parent:
        missing.append(folder)
        folder = folder.parent
    return missing
