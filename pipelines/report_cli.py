"""The command that writes a batch's report."""

from pathlib import Path
from typing import Annotated

import typer


def report(
    output: Annotated[Path, typer.Argument(metavar="OUTPUT", help="Output folder of a batch.")],
    volumes: Annotated[
        bool, typer.Option(help="Volumes to look through on the case pages.")
    ] = True,
    spacing: Annotated[
        float,
        typer.Option(min=0.1, help="Voxels of these volumes below this size (mm) are averaged."),
    ] = 1.0,
) -> None:
    """Write OUTPUT/report/index.html: all cases, the worst first, and a page for each."""
    from .cli import refusals

    with refusals():
        from .batch_report import make_report

        page = make_report(output, volumes=volumes, spacing=spacing)
    typer.echo(page)
