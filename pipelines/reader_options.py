"""Options by which a person vouches for a scan that would be refused alone."""

from typing import Annotated, Literal

import typer

Volume = Annotated[int | None, typer.Option(min=0, help="Volume of 4D scans, counted from 0.")]
Geometry = Annotated[
    Literal["sform", "qform"] | None,
    typer.Option(help="Transform to believe where a header has two that differ."),
]
AssumeMM = Annotated[
    bool, typer.Option("--assume-mm", help="Lengths are mm, whatever unit a header says.")
]
AllowShear = Annotated[bool, typer.Option("--allow-shear", help="Accept axes that are not square.")]
