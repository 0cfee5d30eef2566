"""The command that measures predictions against real scans."""

from pathlib import Path
from typing import Annotated, Literal

import typer

SOME_FAILED, ALL_FAILED = 8, 9
SEGMENTED = ("t1", "t2", "flair")

Scale = Literal["auto", "unit", "symmetric", "reference"]
Split = Literal["training", "validation", "all"]


def evaluate(
    predictions: Annotated[
        str, typer.Argument(metavar="PREDICTIONS", help="Folder, or NAME=FOLDER.")
    ],
    references: Annotated[
        Path,
        typer.Argument(
            metavar="REFERENCES", help="Folder of real scans, or a MONAI data list (JSON)."
        ),
    ],
    output: Annotated[Path, typer.Option(help="Folder for the report; made if absent.")],
    compare: Annotated[
        list[str] | None,
        typer.Option(help="Another folder of predictions, NAME=FOLDER; repeat for more."),
    ] = None,
    to: Annotated[
        list[str] | None, typer.Option(help="Measure only this contrast; repeat for more.")
    ] = None,
    given: Annotated[
        str,
        typer.Option(help="What predictions were made from if they do not say: t1, t1+t2, ..."),
    ] = "",
    metric_set: Annotated[
        list[str] | None,
        typer.Option(
            help="Beside the default one: clipped, aldm, aldm_ixi, dfbk, dfbk_isles, "
            "dfbk_synthrad, msg, brasyn, synthrad2023 or synthrad2025; repeat for more."
        ),
    ] = None,
    table: Annotated[
        list[str] | None,
        typer.Option(
            help="A paper's table, its metric set included: aldm1, aldm1_ixi, aldm2, aldm3, aldmD, "
            "dfbk1, dfbk1_isles, dfbk2 to dfbk5, msg1 to msg3; repeat for more."
        ),
    ] = None,
    prediction_scale: Annotated[
        Scale,
        typer.Option(
            help="unit or symmetric: 0 (-1) and 1 are percentiles of the brain; reference: the "
            "unit of the real scans; auto: unit for what voxlate wrote, else reference."
        ),
    ] = "auto",
    brain_mask: Annotated[
        str | None,
        typer.Option(help="Pattern below REFERENCES, as '{case}/mask.nii.gz' or '*{name}_mask*'."),
    ] = None,
    lesion: Annotated[
        str | None, typer.Option(help="Pattern of the lesion masks, likewise.")
    ] = None,
    split: Annotated[Split, typer.Option(help="Side of a data list.")] = "all",
    training: Annotated[
        Path | None,
        typer.Option(help="What was trained on (folder or data list): leaks, mean image."),
    ] = None,
    segmenter: Annotated[
        str | None,
        typer.Option(
            help="Lesion segmenter: weights of train-segmenter, or a command (no shell) such as "
            "'seg --flair {flair} --t1 {t1} --out {output}'."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of intervals and of the cases shown.")] = 0,
    quiet: Annotated[bool, typer.Option("--quiet", help="Show no progress.")] = False,
) -> None:
    """Measure predictions: tables with intervals and tests, checks, pictures."""
    from .cli import refusals

    with refusals():
        from .downstream import find_segmenter
        from .evaluation_report import HTML_FILE
        from .evaluation_run import MODALITIES, evaluate_runs, find_references
        from .prediction_files import find_run, parse_given

        patterns = {"brainmask": brain_mask, "lesion": lesion}
        masks = {kind: pattern for kind, pattern in patterns.items() if pattern}
        cases = find_references(references, split=split, masks=masks)
        known = parse_given(given, MODALITIES)
        runs = [
            find_run(name, folder, cases, MODALITIES, given=known)
            for name, folder in map(named, [predictions, *(compare or [])])
        ]
        found = evaluate_runs(
            runs,
            cases,
            output,
            targets=to,
            metric_sets=metric_set or (),
            tables=table or (),
            scale=prediction_scale,
            training=None if training is None else find_references(training, split="training"),
            downstream=None if segmenter is None else find_segmenter(segmenter, MODALITIES),
            seed=seed,
            quiet=quiet,
        )
    for failure in found.failures:
        pair = f"{failure.case} {failure.target}" + (f" from {failure.given}" * bool(failure.given))
        typer.echo(f"voxlate: {failure.run or 'baseline'}: {pair}: {failure.what}", err=True)
    missing = {(r.run, r.case, r.given, r.target) for r in found.rows if r.note == "missing"}
    if missing:
        typer.echo(f"voxlate: {len(missing)} expected prediction(s) are missing", err=True)
    typer.echo(output / HTML_FILE)
    if found.failures or missing:
        measured = any(row.run and not row.absent for row in found.rows)
        raise typer.Exit(SOME_FAILED if measured else ALL_FAILED)


def train_segmenter(
    data: Annotated[
        Path, typer.Argument(help="Folder of cases with a lesion mask, or a data list (JSON).")
    ],
    output: Annotated[Path, typer.Option(help="Weights file to write, .safetensors.")],
    modality: Annotated[
        list[str] | None,
        typer.Option(help="Contrast that it sees; repeat for more. Default: t1, t2, flair."),
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Training steps.")] = 500,
    crop: Annotated[int, typer.Option(min=32, help="Voxels of a crop, a multiple of 16.")] = 64,
    seed: Annotated[int, typer.Option(help="Same seed, same segmenter.")] = 0,
) -> None:
    """Train the small lesion segmenter that evaluate asks what predictions are good for."""
    from .cli import refusals

    with refusals():
        from voxlate.data_prep import parse_modality

        from .evaluation_run import MODALITIES, find_references
        from .lesion_segmenter import train_segmenter as train
        from .lesion_segmenter import write_segmenter

        names = [parse_modality(name, MODALITIES) for name in modality or SEGMENTED]
        cases = find_references(data, split="training")
        write_segmenter(train(cases, names, steps=steps, crop=crop, seed=seed), output)
    typer.echo(output)


def named(text: str) -> tuple[str, Path]:
    """``NAME=FOLDER``, or a folder, whose last part is then the name."""
    name, equals, folder = text.partition("=")
    if equals and "/" not in name:
        return name, Path(folder)
    return Path(text).resolve().name, Path(text)
