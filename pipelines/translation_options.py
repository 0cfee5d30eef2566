"""Options that translating one scan and translating many share.

The last four are those by which a person vouches for a scan that would be refused alone.
"""

from pathlib import Path
from typing import Annotated, Literal

import typer

To = Annotated[
    list[str] | None,
    typer.Option(help="Wanted contrast; repeat for more. Default: every other one."),
]
Bundle = Annotated[
    Path | None, typer.Option(help="Bundle folder. Default: the one that comes with voxlate.")
]
Steps = Annotated[int | None, typer.Option(min=0, help="Denoising steps. Default: the bundle's.")]
Samples = Annotated[
    int | None,
    typer.Option(help="Draw so many (2 or more): results are their mean, *_sd their deviation."),
]
Intensity = Annotated[
    str,
    typer.Option(
        metavar="unit|percentile|match:REFERENCE",
        help="Scale of the results; REFERENCE is a scan, or a folder with one for each target.",
    ),
]
StoredAs = Annotated[
    Literal["float32", "scan"],
    typer.Option(help="Voxel type of the results: float32, or that of the scan."),
]
Volume = Annotated[int | None, typer.Option(min=0, help="Volume of 4D scans, counted from 0.")]
Geometry = Annotated[
    Literal["sform", "qform"] | None,
    typer.Option(help="Transform to believe where a header has two that differ."),
]
AssumeMM = Annotated[
    bool, typer.Option("--assume-mm", help="Lengths are mm, whatever unit a header says.")
]
AllowShear = Annotated[bool, typer.Option("--allow-shear", help="Accept axes that are not square.")]
