"""The commands that make a data set ready: prepare and check."""

import json
import shlex
from pathlib import Path
from typing import Annotated

import typer

FOUND = 8  #: exit code of a check that found an error


def prepare(
    layout: Annotated[
        str,
        typer.Argument(
            metavar="LAYOUT",
            help="brats2020, brats2021, brats2023, ixi, isles2015, wmh2017, synthrad2023, bids "
            "or table.",
        ),
    ],
    root: Annotated[Path, typer.Option(help="Folder of the download, or the CSV file of a table.")],
    output: Annotated[Path, typer.Option(help="Folder for the results; made if absent.")],
    modalities: Annotated[
        list[str] | None,
        typer.Option("--modality", help="Wanted of each case; repeat. Default: the layout's."),
    ] = None,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave out unusable cases; failed.csv lists them.")
    ] = False,
    n4: Annotated[bool, typer.Option("--n4", help="Correct the bias field of MR scans.")] = False,
    register: Annotated[
        bool | None,
        typer.Option(
            "--register/--no-register",
            help="Register contrasts within a case. Default: the layout's.",
        ),
    ] = None,
    reference: Annotated[
        str | None, typer.Option(help="Contrast that stays in place. Default: the layout's.")
    ] = None,
    spacing: Annotated[
        str | None,
        typer.Option(help="Voxel size in mm: 1, 1x1x3, or own for the reference's own grid."),
    ] = None,
    mask: Annotated[
        str, typer.Option(help="Brain mask: auto (given, or none), given, nonzero or none.")
    ] = "auto",
    mask_command: Annotated[
        str | None,
        typer.Option(help="Program that finds the brain: 'hd-bet -i {input} -o {output}'."),
    ] = None,
    crop: Annotated[bool, typer.Option("--crop/--no-crop", help="Cut to the head.")] = True,
    cache: Annotated[
        bool, typer.Option("--cache/--no-cache", help="Make the arrays that training maps.")
    ] = True,
    split: Annotated[
        Path | None, typer.Option(help="CSV with id,split. Default: the publishers', or by seed.")
    ] = None,
    validation: Annotated[
        float | None,
        typer.Option(min=0, max=0.99, help="Share of the patients. Default: the paper's."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the split.")] = 0,
    workers: Annotated[int, typer.Option(min=1, help="Processes.")] = 1,
    quiet: Annotated[bool, typer.Option("--quiet", help="Show no progress.")] = False,
) -> None:
    """Make a downloaded data set ready for training: registered, cropped, split, listed."""
    from .cli import refusals

    with refusals():
        from dataclasses import replace

        from voxlate.data_prep.known_layouts import layout_by_name

        from .prepare import prepare as run
        from .prepare import preprocessing_of
        from .prepare_options import PrepareOptions, parse_spacing

        protocol = layout_by_name(layout).protocol
        options = replace(
            PrepareOptions.of(protocol),
            n4=n4,
            mask=mask,
            mask_command=tuple(shlex.split(mask_command or "")),
            crop=crop,
        )
        if register is not None:
            options = replace(options, register=register)
        if reference is not None:
            options = replace(options, reference=reference)
        if spacing is not None:
            options = replace(options, spacing=parse_spacing(spacing))
        done = run(
            layout,
            root,
            output,
            options=options,
            modalities=modalities,
            preprocessing=preprocessing_of(protocol) if cache else None,
            split=split,
            validation_share=validation,
            seed=seed,
            skip_bad=skip_bad,
            workers=workers,
            quiet=quiet,
        )
    typer.echo(done.datalist)
    if done.failed:
        typer.echo(f"{len(done.failed)} cases left out, see {output / 'failed.csv'}", err=True)


def check(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of cases.")],
    datalist: Annotated[
        Path | None, typer.Option(help="Data list with the split. Default: the one in DIR.")
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="File for everything that was measured.")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes.")] = 1,
    quiet: Annotated[bool, typer.Option("--quiet", help="Show no progress.")] = False,
) -> None:
    """Check geometry, intensities, alignment, duplicates and leakage; exit code 8 on errors."""
    from .cli import refusals

    with refusals():
        from voxlate.data_prep import write_atomically

        from .check import check as run
        from .check_table import print_report

        report = run(folder, datalist=datalist, workers=workers, quiet=quiet)
        if json_file is not None:
            with write_atomically(json_file) as file:
                file.write((json.dumps(report.as_json(), indent=2) + "\n").encode())
        print_report(report)
    if report.errors:
        raise typer.Exit(FOUND)
