"""One-to-many evaluation: every source to every other contrast of every case, against the truth."""

import fnmatch
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from voxlate.data_prep import UsageError, VoxlateError, parse_modality, read_scan
from voxlate.data_prep.cases import Case, find_cases

from .cli import refusals
from .evaluation_pairs import read_truth, to_ras
from .evaluation_pictures import Key
from .evaluation_recorder import DEFAULT_SETS, Evaluation, Recorder, masks_used
from .evaluation_report import MARKDOWN_FILE
from .progress import CaseProgress
from .translator import Translator

SOME_FAILED, ALL_FAILED = 8, 9


def evaluate(
    translator: Translator,
    cases: Sequence[Case],
    output_dir: Path | str,
    *,
    sources: Sequence[str] | None = None,
    targets: Sequence[str] | None = None,
    metric_sets: Sequence[str] = DEFAULT_SETS,
    steps: int | None = None,
    seed: int = 0,
    quiet: bool = True,
) -> Evaluation:
    """Translate every source of every case to all its other contrasts, measure, and write a report.

    It is the report of ``voxlate evaluate``, without files in between: ``cases.csv`` is written
    after every case, the rest at the end. Metrics are taken on the scan's own grid. A scan that
    cannot be used is a failure of its pairs, reported and counted, and does not stop the rest.

    Args:
        translator: With its network.
        cases: With two contrasts or more; others have nothing to measure.
        output_dir: Made if absent; a report in it is replaced.
        sources: Only from these; by default from all.
        targets: Only to these; by default to all.
        metric_sets: Beside the default one.
        steps: Denoising steps; by default the translator's.
        seed: Of the noise and the bootstrap.
        quiet: Show no progress.

    Raises:
        UsageError: A modality is unknown, or no case has such a pair.
        OutputError: The report cannot be written.
    """
    known = translator.modalities
    wanted_sources = [parse_modality(name, known) for name in sources or known]
    wanted_targets = [parse_modality(name, known) for name in targets or known]
    plan = [
        (case, source, pairs)
        for case in cases
        for source in wanted_sources
        if source in case.files
        and (pairs := [t for t in wanted_targets if t in case.files and t != source])
    ]
    if not plan:
        raise UsageError(
            f"none of {len(cases)} case(s) has one of {', '.join(wanted_sources)} and another of "
            f"{', '.join(wanted_targets)}",
            "check --cases, --sources and --targets",
            code="E_NO_PAIR",
        )
    run = "bundle" if translator.origin is None else translator.origin.bundle
    recorder = Recorder(Path(output_dir), metric_sets, seed)
    recorder.open()
    for number, (case, source, pairs) in enumerate(plan, start=1):
        keys = {target: Key(run, case.id, source, target) for target in pairs}
        try:
            with CaseProgress(f"{case.id} {source} ({number}/{len(plan)})", quiet=quiet) as report:
                scan = read_scan(case.files[source])
                made = translator(
                    scan, source, pairs, seed=seed, steps=steps, case_id=case.id, progress=report
                )
        except VoxlateError as error:
            for key in keys.values():
                recorder.unmade(key, case, error)
            continue
        given = to_ras(scan.data, scan.affine)[0]
        for target, key in keys.items():
            try:
                truth = read_truth(case, target, like=scan)
                recorder.compared(case, truth, source, {source: given})
                volume = to_ras(made[target], scan.affine)[0]
                recorder.measured(key, case, truth, truth.from_scale(volume))
            except VoxlateError as error:
                recorder.failed(key, error)
        recorder.checkpoint()
    return recorder.finish(modalities=known, provenance=_provenance(translator, cases, steps))


def select_cases(cases: Sequence[Case], names: Sequence[str] | None) -> list[Case]:
    """The cases named by id, by subject, or by a pattern of either; all of them without names.

    Raises:
        UsageError: A name fits no case.
    """
    if names is None:
        return list(cases)
    chosen = []
    for name in names:
        found = [c for c in cases if any(_fits(own, name) for own in (c.id, c.subject))]
        if not found:
            raise UsageError(
                f"no case {name!r}",
                f"choose from {', '.join(case.id for case in cases)}",
                code="E_CASE",
            )
        chosen += [case for case in found if case not in chosen]
    return chosen


def main(
    dataset_dir: Annotated[Path, typer.Option(help="Folder of cases with two contrasts or more.")],
    output_dir: Annotated[Path, typer.Option(help="Folder for the report; made if absent.")],
    bundle: Annotated[
        Path | None, typer.Option(help="Bundle folder. Default: the one that comes with voxlate.")
    ] = None,
    cases: Annotated[
        str, typer.Option(help="Cases or subjects, comma-separated; * is a wildcard. Default: all.")
    ] = "",
    sources: Annotated[str, typer.Option(help="Contrasts, comma-separated. Default: all.")] = "",
    targets: Annotated[str, typer.Option(help="Contrasts, comma-separated. Default: all.")] = "",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:<index>.")] = "auto",
    metric_sets: Annotated[
        str, typer.Option(help="Sets beside the default one, comma-separated.")
    ] = "",
    steps: Annotated[
        int | None, typer.Option(min=0, help="Denoising steps. Default: the bundle's.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the noise and the bootstrap.")] = 0,
    quiet: Annotated[bool, typer.Option("--quiet", help="Show no progress.")] = False,
) -> None:
    """Measure a bundle's translations: the full source x target matrix, with trivial baselines."""
    with refusals():
        translator = Translator.from_bundle(bundle, device=device)
        found = evaluate(
            translator,
            select_cases(find_cases(dataset_dir, translator.modalities), _listed(cases)),
            output_dir,
            sources=_listed(sources),
            targets=_listed(targets),
            metric_sets=_listed(metric_sets) or (),
            steps=steps,
            seed=seed,
            quiet=quiet,
        )
    for failure in found.failures:
        pair = f"{failure.case} {failure.given} to {failure.target}"
        typer.echo(f"voxlate: {pair}: {failure.what}", err=True)
    typer.echo(output_dir / MARKDOWN_FILE)
    if found.failures:
        raise typer.Exit(SOME_FAILED if found.rows else ALL_FAILED)


def _listed(text: str) -> list[str] | None:
    return [name.strip() for name in text.split(",") if name.strip()] or None


def _fits(own: str, name: str) -> bool:
    return name in (own, own.rsplit("/", 1)[-1]) or fnmatch.fnmatchcase(own, name)


def _provenance(translator: Translator, cases: Sequence[Case], steps: int | None) -> dict[str, Any]:
    origin = translator.origin
    return {
        "bundle": None if origin is None else origin.bundle,
        "bundle_version": None if origin is None else origin.version,
        "weights_sha256": None if origin is None else origin.sha256,
        "cases": [case.id for case in cases],
        "masks": masks_used(cases),
        "steps": translator.steps if steps is None else steps,
        "scheduler": type(translator.scheduler).__name__,
        "device": str(translator.device),
        "dtype": str(translator.dtype).removeprefix("torch."),
    }


if __name__ == "__main__":
    typer.run(main)
