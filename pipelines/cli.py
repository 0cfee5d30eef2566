"""The command line: parses, calls a pipeline, and turns a refusal into one line and an exit code.

Only what ``--help`` needs is imported here; torch is loaded when there is work for it.
"""

import logging
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated, Literal, NoReturn

import typer

import voxlate

from . import batch_cli, evaluate_cli, prepare_cli, report_cli
from .translation_options import (
    AllowShear,
    AssumeMM,
    Bundle,
    Geometry,
    Intensity,
    Samples,
    Steps,
    StoredAs,
    To,
    Volume,
)

ContrastFile = Annotated[
    Path | None, typer.Option(metavar="FILE", help="This contrast of the case, in place of INPUT.")
]
INTERRUPTED, TERMINATED = 130, 143
ABOUT = "Translate one brain MR contrast into the others. Research use only, not a medical device."

app = typer.Typer(
    name="voxlate",
    help=ABOUT,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def main() -> None:
    """Entry point of the ``voxlate`` command."""
    app()


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"voxlate {voxlate.__version__}")
        raise typer.Exit


@app.callback(help=ABOUT)
def options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Hold the options that need no command; the text shown is ``ABOUT``."""


@app.command()
def translate(
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for the results; made if absent.")
    ],
    scan: Annotated[
        Path | None, typer.Argument(metavar="INPUT", help="NIfTI file (.nii or .nii.gz).")
    ] = None,
    source: Annotated[str, typer.Option(help="Contrast of INPUT.")] = "t1",
    t1: ContrastFile = None,
    t1ce: ContrastFile = None,
    t2: ContrastFile = None,
    flair: ContrastFile = None,
    pd: ContrastFile = None,
    dwi: ContrastFile = None,
    ct: ContrastFile = None,
    mr: ContrastFile = None,
    to: To = None,
    register: Annotated[
        Literal["rigid"] | None,
        typer.Option(help="Lay contrasts that lie elsewhere over the first one given."),
    ] = None,
    bundle: Bundle = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:<index>.")] = "auto",
    seed: Annotated[int, typer.Option(help="Same seed, same result.")] = 0,
    steps: Steps = None,
    samples: Samples = None,
    intensity: Intensity = "unit",
    dtype: StoredAs = "float32",
    volume: Volume = None,
    geometry: Geometry = None,
    assume_mm: AssumeMM = False,
    allow_shear: AllowShear = False,
    force: Annotated[
        bool, typer.Option("--force", help="Accept what looks like a CT or a label map.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace existing results.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Show no progress.")] = False,
) -> None:
    """Translate one scan, or the contrasts that a case has into those it lacks.

    Give one INPUT, or each contrast by its name: --t1 a.nii.gz --flair b.nii.gz. Written are
    volumes on the (first) scan's own grid, a picture and a JSON record.
    """
    named = {
        "t1": t1,
        "t1ce": t1ce,
        "t2": t2,
        "flair": flair,
        "pd": pd,
        "dwi": dwi,
        "ct": ct,
        "mr": mr,
    }
    with refusals():
        from voxlate.data_prep import Overrides, UsageError

        from .conversion import convert, convert_case

        given = {name: file for name, file in named.items() if file is not None}
        if (scan is None) != bool(given) or (register is not None and not given):
            raise UsageError(
                "no scan, or INPUT together with contrasts by name",
                "give one INPUT, or each contrast as --t1 FILE --flair FILE (--register rigid)",
                code="E_NO_INPUT",
            )
        overrides = Overrides(
            assume_mm=assume_mm,
            geometry=geometry,
            shear=allow_shear,
            content=force,
            volume=volume,
        )
        if scan is not None:
            files = convert(
                scan,
                output,
                source=source,
                targets=to or None,
                bundle=bundle,
                device=device,
                seed=seed,
                steps=steps,
                samples=samples,
                intensity=intensity,
                stored_as=dtype,
                overrides=overrides,
                overwrite=overwrite,
                quiet=quiet,
            )
        else:
            files = convert_case(
                given,
                output,
                targets=to or None,
                register=register == "rigid",
                bundle=bundle,
                device=device,
                seed=seed,
                steps=steps,
                samples=samples,
                intensity=intensity,
                stored_as=dtype,
                overrides=overrides,
                overwrite=overwrite,
                quiet=quiet,
            )
    for file in files:
        typer.echo(file)


@app.command("import-checkpoint")
def import_checkpoint(
    checkpoint: Annotated[Path, typer.Argument(help="Published file; nothing in it is executed.")],
    origin: Annotated[str, typer.Option("--from", help="aldm or monai-generative.")],
    output: Annotated[
        Path,
        typer.Option(help="New weights file; DIR/models/model.pt makes a bundle of DIR."),
    ],
    config: Annotated[
        Path | None, typer.Option(help="YAML file with the networks' constructor arguments.")
    ] = None,
) -> None:
    """Convert a checkpoint of the reference code into weights and a description for voxlate."""
    with refusals():
        from .import_checkpoint import import_checkpoint as convert_checkpoint

        description = convert_checkpoint(checkpoint, origin=origin, output=output, config=config)
    typer.echo(output)
    typer.echo(description)


@app.command("text-cache")
def text_cache(
    bundle: Annotated[Path, typer.Option(help="Bundle folder with configs/prompts.yaml.")],
    encoder: Annotated[
        str | None,
        typer.Option(
            help="open_clip text tower: hf-hub:OWNER/NAME or ARCHITECTURE:TAG (may be downloaded), "
            "or local-dir:FOLDER. Default: BiomedCLIP, from the hub."
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="Default: the bundle's models/text_cache.safetensors.")
    ] = None,
) -> None:
    """Encode a bundle's prompts; the one command that may use the network."""
    with refusals():
        from .text_cache import build_text_cache
        from .text_encoder import BIOMEDCLIP

        file = build_text_cache(bundle, encoder=encoder or BIOMEDCLIP, output=output)
    typer.echo(file)


app.command()(batch_cli.batch)
app.command()(batch_cli.plan)
app.command()(batch_cli.status)
app.command()(batch_cli.retry)
app.command()(report_cli.report)
app.command()(prepare_cli.prepare)
app.command()(prepare_cli.check)
app.command()(evaluate_cli.evaluate)
app.command("train-segmenter")(evaluate_cli.train_segmenter)


@contextmanager
def refusals() -> Iterator[None]:
    """Turn a ``VoxlateError`` into its line and exit code; clean up when stopped."""
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="voxlate: %(message)s")
    logging.getLogger("voxlate").setLevel(logging.INFO)
    previous = signal.signal(signal.SIGTERM, _terminate)
    from voxlate.data_prep.errors import VoxlateError

    try:
        yield
    except VoxlateError as error:
        typer.echo(f"voxlate: {error}", err=True)
        raise typer.Exit(error.exit_code) from None
    except KeyboardInterrupt:
        typer.echo("voxlate: interrupted, nothing was written", err=True)
        raise typer.Exit(INTERRUPTED) from None
    finally:
        signal.signal(signal.SIGTERM, previous)


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    """Leave through the cleaning up, as an exception."""
    raise SystemExit(TERMINATED)


if __name__ == "__main__":
    main()
