"""The main job on a real brain: ``python -m voxlate.pipelines.demo --output DIR``."""

from pathlib import Path
from typing import Annotated

import typer

from .cli import refusals

TEMPLATE = "mni152_t1.nii.gz"


def write_template(path: Path) -> Path:
    """Write nilearn's packaged MNI152 T1 (an average brain, skull-stripped, 1 mm) as a NIfTI file.

    Raises:
        UsageError: nilearn is not installed.
    """
    from voxlate.data_prep import UsageError

    try:
        from nilearn.datasets import load_mni152_template
    except ImportError:
        raise UsageError(
            "the demo's brain comes with nilearn, which is not installed",
            "run pip install 'voxlate[demo]', or name a scan with --scan",
            code="E_DEMO",
        ) from None
    path.parent.mkdir(parents=True, exist_ok=True)
    load_mni152_template(resolution=1).to_filename(path)
    return path


def demo(
    output: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("demo_output"),
    scan: Annotated[Path | None, typer.Option(help="Use this scan instead.")] = None,
    source: Annotated[str, typer.Option(help="Contrast of the scan.")] = "t1",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:<index>.")] = "auto",
) -> None:
    """Translate a real T1 into every other contrast and say where the picture is."""
    with refusals():
        from .conversion import convert

        scan = scan or write_template(output / TEMPLATE)
        files = convert(scan, output, source=source, device=device, overwrite=True)
    for file in files:
        typer.echo(file)
    picture = next(file for file in files if file.suffix == ".png")
    typer.echo(f"\nThe picture is {picture.resolve()}")


if __name__ == "__main__":
    typer.run(demo)
