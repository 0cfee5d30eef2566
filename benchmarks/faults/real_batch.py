"""A real batch, killed and gone on with: ``python -m benchmarks.faults.real_batch SCANS``.

Copies a folder of scans, puts ten broken files among them, translates all with a bundle, kills the
run in its middle, and does what a person does next. Writes a page with what was measured, and with
``--screenshots FOLDER`` pictures of the report in headless Chromium (the extra ``browser``).
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from broken_scans import VERDICTS, write_broken  # noqa: E402, found by the line above
from checkout import ROOT, package  # noqa: E402, likewise

TARGETS = ("t1ce", "t2", "flair")


class RealBatch:
    """The folders of one trial, and the command as a user starts it.

    Args:
        work: Empty folder.
        scans: Folder of scans, which is copied.
        bundle: Folder of a bundle; None for the one that comes with voxlate.
    """

    def __init__(self, work: Path, scans: Path, bundle: Path | None) -> None:
        self.work, self.input, self.output = work, work / "input", work / "output"
        shutil.copytree(scans, self.input)
        self.bundle = [] if bundle is None else ["--bundle", str(bundle.absolute())]
        self.environment = {**os.environ, "PYTHONPATH": str(package(work / "package"))}
        self.events = work / "events.jsonl"

    def command(self, *arguments: str) -> list[str]:
        """What runs ``voxlate`` with these arguments."""
        return [sys.executable, "-m", "voxlate.pipelines.cli", *arguments]

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run ``voxlate``; its output is kept and shown."""
        done = subprocess.run(
            self.command(*arguments),
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        print(f"$ voxlate {' '.join(arguments)}\n{done.stdout}{done.stderr}", flush=True)
        return done

    def batch(self, source: Path, output: Path) -> list[str]:
        """Arguments of ``voxlate batch``."""
        to = [part for target in TARGETS for part in ("--to", target)]
        return [
            "batch", str(source), "--output", str(output), "--source", "t1", *to, *self.bundle,
            "--log-json", str(self.events),
        ]  # fmt: skip

    def written(self) -> list[str]:
        """Ids of the cases that the run has told to be written."""
        if not self.events.exists():
            return []
        lines = [json.loads(line) for line in self.events.read_text().splitlines() if line]
        return [line["case"] for line in lines if line["event"] == "written"]

    def killed(self, after: int) -> None:
        """Start the batch; ``kill -9`` its group seconds after so many cases were written."""
        process = subprocess.Popen(
            self.command(*self.batch(self.input, self.output)),
            env=self.environment,
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        while len(self.written()) < after and process.poll() is None:
            time.sleep(0.2)
        time.sleep(5)  # the next case is in the network then
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def trial(batch: RealBatch) -> tuple[list[tuple[str, str, str, bool]], Path]:
    """Do it all.

    Returns:
        Rows of what was done, what must hold, what was measured and whether it held; and the
        report's first page.
    """
    from bench import leftovers, volumes

    from voxlate.pipelines.manifest import find_manifests

    rows: list[tuple[str, str, str, bool]] = []
    plan = json.loads(
        batch.run("plan", *batch.batch(batch.input, batch.output)[1:-2], "--json").stdout
    )
    ids = _ids(batch)
    good = len(ids)
    chosen = [ids[0], ids[-1]]
    write_broken(batch.input / "broken", batch.input / f"{ids[0]}.nii.gz")
    bad = sum(code is not None for code in VERDICTS.values())

    table = batch.work / "two.csv"
    with table.open("w", newline="") as file:
        csv.writer(file).writerows(
            [["id", "t1"], *[[i, batch.input / f"{i}.nii.gz"] for i in chosen]]
        )
    batch.run(*batch.batch(table, batch.work / "undisturbed"))
    whole = volumes(batch.work / "undisturbed")
    batch.events.unlink()

    batch.killed(after=good // 2)
    before = batch.written()
    records = [path for path, _ in find_manifests(batch.output)]
    told = batch.run("status", str(batch.output), "--verify").stdout
    state = json.loads(batch.run("status", str(batch.output), "--verify", "--json").stdout)
    rows.append(
        (
            f"`kill -9` of the whole group after {len(before)} of {good} cases",
            "every finished case has its files whole; `status --verify` finds nothing damaged",
            f"{len(records)} records, {len(volumes(batch.output))} volumes, "
            f"{len(state['damaged'])} damaged; `status`: {told.splitlines()[0]}",
            not state["damaged"] and len(records) >= len(before),
        )
    )
    resumed = batch.run(*batch.batch(batch.input, batch.output))
    summary = resumed.stdout.strip().splitlines()[-1]
    failures = [line for line in resumed.stderr.splitlines() if line.startswith("FAILED")]
    with (batch.output / "failed.csv").open(newline="") as file:
        codes = {Path(row["file"]).name: row["code"] for row in csv.DictReader(file)}
    expected = {name: code for name, code in VERDICTS.items() if code is not None}
    rows.append(
        (
            "the same command again",
            f"exit 8; {good} cases finished, those before the kill verified and not made again; "
            f"{bad} broken files with a line, a row and the right code each; nothing temporary",
            f"exit {resumed.returncode}: {summary.split(';')[0]}; {len(failures)} lines; "
            f"{', '.join(f'{n} {c}' for c, n in sorted(Counter(codes.values()).items()))}; "
            f"{len(leftovers(batch.output))} temporary",
            resumed.returncode == 8
            and f"{good - len(records)} written, {len(records)} verified, {bad} failed" in summary
            and codes == expected
            and len(failures) == bad
            and not leftovers(batch.output),
        )
    )
    made = volumes(batch.output)
    same = sum(made.get(name) == digest for name, digest in whole.items())
    rows.append(
        (
            "outputs against a run that nobody disturbed (another list, other neighbours)",
            "the same bytes",
            f"{same} of {len(whole)} volumes of {' and '.join(chosen)} have the same SHA-256",
            same == len(whole) == len(TARGETS) * len(chosen),
        )
    )
    again = batch.run("retry", str(batch.output))
    rows.append(
        (
            "`voxlate retry`, nothing repaired",
            "exit 9: all that it tries fail again, the finished ones are not touched",
            f"exit {again.returncode}: {again.stdout.strip().splitlines()[-1].split(';')[0]}",
            again.returncode == 9 and volumes(batch.output) == made,
        )
    )
    shutil.copy(batch.input / f"{ids[0]}.nii.gz", batch.input / "broken" / "truncated.nii.gz")
    repaired = batch.run("retry", str(batch.output))
    state = json.loads(batch.run("status", str(batch.output), "--verify", "--json").stdout)
    rows.append(
        (
            "`voxlate retry` after the truncated file was copied again",
            "that case is written, the others fail as before; `status --verify` agrees",
            f"exit {repaired.returncode}: {repaired.stdout.strip().splitlines()[-1].split(';')[0]};"
            f" {state['finished']} finished, {sum(state['failed'].values())} failed, "
            f"{len(state['damaged'])} damaged",
            repaired.returncode == 8
            and state["finished"] == good + 1
            and sum(state["failed"].values()) == bad - 1
            and not state["damaged"],
        )
    )
    batch.run("report", str(batch.output))
    index = batch.output / "report" / "index.html"
    pages = list((batch.output / "report" / "cases").glob("*.html"))
    rows.append(
        (
            "`voxlate report`",
            "every case in the overview, and a page for each",
            f"{index.read_text().count('<tr ')} rows, {len(pages)} pages",
            len(pages) == good + bad,
        )
    )
    seconds = [sum(r["Seconds"].values()) for _, r in find_manifests(batch.output)]
    shapes = {tuple(r["Input"]["Shape"]) for _, r in find_manifests(batch.output)}
    print(f"{plan['needs']}, seconds a case: {sorted(map(round, seconds))}")
    rows.append(
        (
            "scans",
            "mixed grids",
            f"{good} T1 scans on {len(shapes)} grids, {min(seconds):.0f} to {max(seconds):.0f} s a "
            "case",
            len(shapes) > 1,
        )
    )
    return rows, index


def _ids(batch: RealBatch) -> list[str]:
    """The cases that are listed before anything broken lies there."""
    from voxlate.pipelines.batch import BatchOptions, listed
    from voxlate.pipelines.bundle import bundle_facts

    options = BatchOptions(str(batch.input), str(batch.output), sources=("t1",), targets=TARGETS)
    bundle = batch.bundle[1] if batch.bundle else None
    return [job.id for job in listed(options, bundle_facts(bundle)).jobs]


def screenshots(index: Path, folder: Path) -> tuple[str, str, str, bool]:
    """Open the overview and the page of a finished case as a browser without a network does."""
    from playwright.sync_api import sync_playwright

    folder.mkdir(parents=True, exist_ok=True)
    errors: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium") or shutil.which("google-chrome"),
            args=["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader",
                  "--ignore-gpu-blocklist"],
        )  # fmt: skip
        page = browser.new_context(offline=True, viewport={"width": 1400, "height": 900}).new_page()
        page.set_default_timeout(180_000)
        page.on("console", lambda m: errors.append(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(index.as_uri())
        page.wait_for_timeout(1000)
        page.screenshot(path=folder / "index.png", full_page=True)
        page.locator("tbody tr td:nth-child(2) a").last.click()
        page.wait_for_selector("body[data-viewer=ready]")
        page.wait_for_timeout(2000)
        page.screenshot(path=folder / "case.png", full_page=True)
        panes = page.locator("canvas").count()
        browser.close()
    return (
        "overview and a case's page in headless Chromium without a network",
        "both open, a canvas for the scan and each target, no error on the console",
        f"{panes} canvases, {len(errors)} errors",
        panes == 1 + len(TARGETS) and not errors,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("scans", type=Path, help="folder with T1 scans among others")
    parser.add_argument("--bundle", type=Path, help="default: the one that comes with voxlate")
    parser.add_argument("--work", type=Path, help="keep everything in this new folder")
    parser.add_argument("--screenshots", type=Path, help="where pictures of the report go")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "real_batch.md")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = options.work or Path(temporary) / "work"
        work.mkdir(parents=True)
        batch = RealBatch(work, options.scans, options.bundle)
        sys.path.insert(0, str(work / "package"))
        rows, index = trial(batch)
        if options.screenshots is not None:
            rows.append(screenshots(index, options.screenshots))
    from bench import Row, table

    text = PAGE.format(
        machine=f"{os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}",
        table=table([Row(*row) for row in rows]),
    )
    options.output.write_text(text, encoding="utf-8")
    print(text)
    if not all(row[3] for row in rows):
        raise SystemExit(1)


PAGE = """# A real batch, killed and gone on with

Written by `python -m benchmarks.faults.real_batch SCANS` ({machine}); do not edit. The
bundle is the one that comes with voxlate, the scans are copies of a folder of real ones with ten
broken files among them: truncated, empty, a text, a folder and a pipe with a scan's name, RGB, 4D,
constant, a label map, half of it NaN.

{table}
"""


if __name__ == "__main__":
    main()
