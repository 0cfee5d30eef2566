"""The commands that work on many scans: batch, plan, status and retry."""

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

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

InputPath = Annotated[
    Path,
    typer.Argument(metavar="INPUT", help="Folder (searched whole), BIDS data set, or CSV file."),
]
Output = Annotated[Path, typer.Option(help="Folder for the results; made if absent.")]
Source = Annotated[
    list[str] | None,
    typer.Option(
        help="Contrast to translate from; repeat in order of preference. Scans whose name does not "
        "tell theirs are taken for the first. Default: the bundle's, in its order."
    ),
]
Pattern = Annotated[
    str | None, typer.Option(help="Only scans whose name or path matches, as '*_T1w.nii.gz'.")
]
Layout = Annotated[
    Literal["auto", "tree", "bids"],
    typer.Option(help="Of the results: the input's tree, or BIDS derivatives."),
]
SkipPresent = Annotated[
    bool, typer.Option("--skip-present", help="Make no contrast that the case has a scan of.")
]
Picture = Annotated[bool, typer.Option(help="A picture of each case.")]
Device = Annotated[str, typer.Option(help="auto (every GPU, else CPU), cpu, cuda, cuda:<index>.")]
Workers = Annotated[
    int | None, typer.Option(min=1, help="Processes. Default: one for each device.")
]
Engine = Annotated[
    Literal["processes", "ray"],
    typer.Option(
        help="What runs the workers: processes of this machine, or Ray (the cluster that "
        "RAY_ADDRESS names)."
    ),
]
Seed = Annotated[int, typer.Option(help="Same seed, same results.")]
Verify = Annotated[
    Literal["full", "size"],
    typer.Option(help="Compare finished results with their records by checksum, or size alone."),
]
ShardOption = Annotated[
    str | None,
    typer.Option(
        "--shard",
        help="i/n: this part of the list. Read by itself from Slurm arrays "
        "and Kubernetes indexed jobs.",
    ),
]
Register = Annotated[
    Literal["rigid"] | None,
    typer.Option(help="Of cases with several contrasts, lay those that lie elsewhere over one."),
]
AnyContent = Annotated[
    bool, typer.Option("--any-content", help="Accept what looks like a CT or a label map.")
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace results of other options or weights.")
]
Force = Annotated[bool, typer.Option("--force", help="Begin though disk or memory may not do.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Tell failures alone.")]
LogJson = Annotated[
    str | None, typer.Option("--log-json", help="File for events as JSON lines; - is stdout.")
]
FailOn = Annotated[
    Literal["any", "all", "none"],
    typer.Option(help="When failed cases make the exit code 8 (some) or 9 (all)."),
]
StopOnFirstError = Annotated[
    bool, typer.Option("--stop-on-first-error", help="Begin no further case after one failed.")
]
Folder = Annotated[Path, typer.Argument(metavar="OUTPUT", help="Output folder of a batch.")]


def batch(
    source_path: InputPath,
    output: Output,
    to: To = None,
    source: Source = None,
    pattern: Pattern = None,
    layout: Layout = "auto",
    skip_present: SkipPresent = False,
    picture: Picture = True,
    bundle: Bundle = None,
    device: Device = "auto",
    workers: Workers = None,
    engine: Engine = "processes",
    seed: Seed = 0,
    steps: Steps = None,
    samples: Samples = None,
    verify: Verify = "full",
    intensity: Intensity = "unit",
    dtype: StoredAs = "float32",
    register: Register = None,
    volume: Volume = None,
    geometry: Geometry = None,
    assume_mm: AssumeMM = False,
    allow_shear: AllowShear = False,
    any_content: AnyContent = False,
    shard: ShardOption = None,
    overwrite: Overwrite = False,
    force: Force = False,
    quiet: Quiet = False,
    log_json: LogJson = None,
    fail_on: FailOn = "any",
    stop_on_first_error: StopOnFirstError = False,
) -> None:
    """Translate many scans; start the same command again to go on where it stopped."""
    from .cli import refusals

    with refusals():
        from voxlate.data_prep import Overrides

        from .batch import BatchOptions, run_batch

        status = run_batch(
            BatchOptions(
                source=str(source_path),
                output=str(output),
                sources=tuple(source) if source else None,
                targets=tuple(to) if to else None,
                pattern=pattern,
                layout=layout,
                skip_present=skip_present,
                picture=picture,
                bundle=str(bundle) if bundle else None,
                device=device,
                workers=workers,
                engine=engine,
                seed=seed,
                steps=steps,
                verify=verify,
                intensity=intensity,
                stored_as=dtype,
                samples=samples,
                register=register == "rigid",
                overrides=Overrides(
                    assume_mm=assume_mm,
                    geometry=geometry,
                    shear=allow_shear,
                    content=any_content,
                    volume=volume,
                ),
            ),
            shard=shard,
            overwrite=overwrite,
            force=force,
            quiet=quiet,
            events=log_json,
            fail_on=fail_on,
            stop_on_first_error=stop_on_first_error,
        )
    raise typer.Exit(status)


def plan(
    source_path: InputPath,
    output: Output,
    to: To = None,
    source: Source = None,
    pattern: Pattern = None,
    layout: Layout = "auto",
    skip_present: SkipPresent = False,
    picture: Picture = True,
    bundle: Bundle = None,
    samples: Samples = None,
    shard: ShardOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Say what a batch would do and take; needs no weights and writes nothing."""
    from .cli import refusals

    with refusals():
        from .batch import BatchOptions
        from .batch_plan import plan_of

        options = BatchOptions(
            source=str(source_path),
            output=str(output),
            sources=tuple(source) if source else None,
            targets=tuple(to) if to else None,
            pattern=pattern,
            layout=layout,
            skip_present=skip_present,
            picture=picture,
            bundle=str(bundle) if bundle else None,
            samples=samples,
        )
        found = plan_of(options, shard=shard)
    typer.echo(json.dumps(found.fields(), indent=2) if as_json else "\n".join(found.lines()))


def status(
    output: Folder,
    verify: Annotated[bool, typer.Option("--verify", help="Compare all checksums.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Say how far a batch is: finished, failed, open, at work."""
    from .cli import refusals

    with refusals():
        from .batch_plan import status_of

        found = status_of(output, verify=verify)
    typer.echo(json.dumps(found.fields(), indent=2) if as_json else "\n".join(found.lines()))


def retry(
    output: Folder,
    device: Device = "auto",
    workers: Workers = None,
    overwrite: Overwrite = False,
    force: Force = False,
    quiet: Quiet = False,
    log_json: LogJson = None,
    fail_on: FailOn = "any",
) -> None:
    """Run the cases of failed.csv again, with the options of the batch."""
    from .cli import refusals

    with refusals():
        from .batch import options_from, run_batch, saved_run
        from .batch_plan import failed_ids

        options = saved_run(output)["options"]
        ids = failed_ids(output)
        code = run_batch(
            options_from({**options, "output": str(output), "device": device, "workers": workers}),
            shard="1/1",
            overwrite=overwrite,
            force=force,
            quiet=quiet,
            events=log_json,
            fail_on=fail_on,
            only=ids,
        )
        for path in output.glob("failed-*-of-*.csv"):
            path.unlink(missing_ok=True)
    raise typer.Exit(code)
