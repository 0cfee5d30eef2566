"""Translations from every subset of each case's contrasts, laid out for ``voxlate evaluate``."""

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from voxlate.data_prep import (
    Case,
    NoInputError,
    OutputError,
    Scan,
    UsageError,
    VoxlateError,
    find_cases,
    read_scan,
)

from .case_inputs import read_inputs
from .checkpoint import sha256_of
from .cli import refusals
from .completion import complete, takes_several
from .evaluation import select_cases
from .layouts import CaseFiles, tree_files
from .manifest import difference, fingerprint, inputs_of, read_manifest
from .outputs import write_translation
from .progress import CaseProgress
from .translator import Translator

SOME_FAILED, ALL_FAILED = 8, 9


class SubsetFailure(NamedTuple):
    """A case that could not be translated from these of its contrasts."""

    case: str
    given: str
    what: str


class SubsetTranslations(NamedTuple):
    """How many (case, subset) were written, were there already, and which failed."""

    written: int
    kept: int
    failures: list[SubsetFailure]


def subsets(modalities: Sequence[str]) -> list[tuple[str, ...]]:
    """Every subset that has something and lacks something, small ones first: 14 of 4 contrasts."""
    sizes = range(1, len(modalities))
    return [given for size in sizes for given in combinations(modalities, size)]


def translate_subsets(
    translator: Translator,
    cases: Sequence[Case],
    output_dir: Path | str,
    *,
    seed: int = 0,
    steps: int | None = None,
    overwrite: bool = False,
    quiet: bool = True,
) -> SubsetTranslations:
    """Make, of every subset of a case's contrasts, all others that the case really has.

    They are ``<output_dir>/t1+t2/<case>_flair.nii.gz`` and so on, with a record each: what
    ``voxlate evaluate OUTPUT_DIR REFERENCES --table msg1`` wants. Noise depends on seed, case and
    target alone, so results differ by what was given. What an earlier run with the same weights and
    options finished is kept.

    Args:
        translator: From a bundle whose prior takes several contrasts.
        cases: They may lack contrasts; those that have fewer than two are passed over.
        output_dir: Made if absent.
        seed: Of the noise.
        steps: Denoising steps instead of the translator's.
        overwrite: Make everything again.
        quiet: Show no progress.

    Raises:
        UsageError: The network takes one contrast at a time.
        NoInputError: No case has two contrasts.
        OutputError: The folder holds results of other weights or options.
    """
    if not takes_several(translator.network):
        raise UsageError(
            "this model translates one contrast at a time",
            "name a bundle that takes several",
            code="E_SEVERAL",
        )
    written = kept = 0
    failures = []
    found = False
    for case in cases:
        having = [name for name in translator.modalities if name in case.files]
        scans: dict[str, Scan] = {}
        for given in subsets(having):
            found = True
            files = subset_files(case.id, given, [name for name in having if name not in given])
            try:
                if not overwrite:
                    record = finished(translator, Path(output_dir), files, seed, steps)
                    if record is not None and inputs_of(record) == checksums(case, given):
                        kept += 1
                        continue
                with CaseProgress(f"{case.id} from {'+'.join(given)}", quiet=quiet) as progress:
                    for name in given:
                        scans.setdefault(name, read_scan(case.files[name]))
                    translation = complete(
                        translator,
                        read_inputs({name: scans[name] for name in given}, translator.modalities),
                        list(files.volumes),
                        seed=seed,
                        steps=steps,
                        case_id=case.id,
                        progress=progress,
                    )
                    write_translation(translation, Path(output_dir), files, overwrite=True)
                written += 1
            except OutputError:
                raise
            except VoxlateError as error:
                failures.append(SubsetFailure(case.id, "+".join(given), str(error)))
    if not found:
        raise NoInputError(
            f"none of {len(cases)} case(s) has two of {', '.join(translator.modalities)}",
            "give cases with two contrasts or more",
            code="E_NO_CASES",
        )
    return SubsetTranslations(written, kept, failures)


def subset_files(case_id: str, given: Sequence[str], targets: Sequence[str]) -> CaseFiles:
    """What the results of one subset are called, below a folder named after the subset."""
    return tree_files(f"{'+'.join(given)}/{case_id}", targets, picture=False)


def finished(
    translator: Translator, output_dir: Path, files: CaseFiles, seed: int, steps: int | None
) -> dict[str, Any] | None:
    """The record of an earlier run that made these files, if all are as it says.

    Raises:
        OutputError: They were made with other weights or options, or by something else.
    """
    origin = translator.origin
    try:
        record = read_manifest(output_dir / files.record)
    except FileNotFoundError:
        return None
    wanted = origin and fingerprint(
        weights=origin.sha256,
        configuration=origin.configuration,
        seed=seed,
        steps=translator.checked_steps(steps),
    )
    if record.get("Fingerprint") != wanted:
        raise OutputError(
            "its results were made with other options or weights",
            "add --overwrite or name another folder",
            code="E_OPTIONS",
            file=output_dir / files.record,
        )
    whole = difference(record, output_dir / files.folder, full=False) is None
    return record if whole and set(record["Outputs"]) == set(files.volumes) else None


def checksums(case: Case, given: Sequence[str]) -> dict[str, str]:
    """The same of a case's files, as they are now."""
    return {name: sha256_of(case.files[name]) for name in given}


def main(
    dataset_dir: Annotated[Path, typer.Option(help="Folder of cases with two contrasts or more.")],
    output_dir: Annotated[Path, typer.Option(help="Folder for the results; made if absent.")],
    bundle: Annotated[Path, typer.Option(help="Folder of a bundle that takes several contrasts.")],
    cases: Annotated[
        str, typer.Option(help="Cases or subjects, comma-separated; * is a wildcard. Default: all.")
    ] = "",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:<index>.")] = "auto",
    steps: Annotated[
        int | None, typer.Option(min=0, help="Denoising steps. Default: the bundle's.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the noise.")] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Make all again.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Show no progress.")] = False,
) -> None:
    """Translate every case from every subset of its contrasts, for ``voxlate evaluate``."""
    names = [name.strip() for name in cases.split(",") if name.strip()] or None
    with refusals():
        translator = Translator.from_bundle(bundle, device=device)
        done = translate_subsets(
            translator,
            select_cases(find_cases(dataset_dir, translator.modalities), names),
            output_dir,
            seed=seed,
            steps=steps,
            overwrite=overwrite,
            quiet=quiet,
        )
    for failure in done.failures:
        typer.echo(f"voxlate: {failure.case} from {failure.given}: {failure.what}", err=True)
    typer.echo(output_dir)
    if done.failures:
        raise typer.Exit(SOME_FAILED if done.written or done.kept else ALL_FAILED)


if __name__ == "__main__":
    typer.run(main)
