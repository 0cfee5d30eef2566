"""All files of a case, or none of them."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from voxlate.data_prep import OutputError, write_scan

from .case_steps import Translation
from .checkpoint import sha256_of
from .qc_picture import draw_qc
from .sidecar import describe


def output_names(stem: str, targets: Sequence[str]) -> list[str]:
    """File names of a case: a volume for each target, the picture, the record."""
    return [*(f"{stem}_{target}.nii.gz" for target in targets), f"{stem}_qc.png", f"{stem}.json"]


def check_outputs(folder: Path, names: Sequence[str], *, overwrite: bool) -> None:
    """Refuse early what could not be written at the end.

    Raises:
        OutputError: The folder is a file or read-only, or an output is there already.
    """
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
def staged(folder: Path, names: Sequence[str], *, overwrite: bool) -> Iterator[Path]:
    """Give a hidden folder to write into; move its files on only when the block succeeds.

    A failure, or an interruption, leaves ``folder`` as it was: not there, if it was not.

    Raises:
        OutputError: Something cannot be written, or an output has appeared meanwhile.
    """
    check_outputs(folder, names, overwrite=overwrite)
    created = _missing(folder)
    done = False
    staging = folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=".voxlate-", dir=folder))
        yield staging
        check_outputs(folder, names, overwrite=overwrite)
        for name in names:
            os.replace(staging / name, folder / name)
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
                if path.is_dir() and not any(path.iterdir()):
                    path.rmdir()


def write_translation(
    translation: Translation, folder: Path, stem: str, *, overwrite: bool = False
) -> list[Path]:
    """Write a case: ``<stem>_<target>.nii.gz``, ``<stem>_qc.png`` and ``<stem>.json``.

    Returns:
        The files, volumes first.

    Raises:
        OutputError: They cannot be written, or are there already.
    """
    names = output_names(stem, list(translation.volumes))
    with staged(folder, names, overwrite=overwrite) as staging:
        outputs = {}
        for (target, volume), name in zip(translation.volumes.items(), names, strict=False):
            write_scan(
                staging / name,
                volume,
                translation.scan,
                description=f"synthetic {target} by voxlate, research only",
            )
            outputs[target] = (name, sha256_of(staging / name))
        with open(staging / f"{stem}_qc.png", "wb") as picture:
            draw_qc(
                picture,
                (translation.source, translation.scan.data),
                translation.volumes,
                translation.scan.affine,
                title=stem,
            )
        record = json.dumps(describe(translation, outputs), indent=2) + "\n"
        (staging / f"{stem}.json").write_text(record, encoding="utf-8")
    return [folder / name for name in names]


def _missing(folder: Path) -> list[Path]:
    """The folders that would have to be made, innermost first."""
    missing = []
    while not folder.exists() and folder != folder.parent:
        missing.append(folder)
        folder = folder.parent
    return missing
