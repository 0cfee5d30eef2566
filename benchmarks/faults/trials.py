"""Faults that are tried with forked workers: kills, full disks, damaged files, bad weights."""

from __future__ import annotations

import io
import os
import pickle
import random
import shutil
import signal
import tempfile
import threading
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench import TARGETS, Bench, Row, leftovers, partial, volumes

from voxlate.data_prep import VoxlateError
from voxlate.pipelines import Translator
from voxlate.pipelines.bundle import WEIGHTS_FILE
from voxlate.pipelines.manifest import find_manifests

NOBODY = 65534
EVENTS_BYTES = 8_000  #: that the trial's own list of events may take


def kills(bench: Bench, instants: int, *, seed: int = 0, picture: bool = False) -> Row:
    """Kill the whole group at random instants of a batch, restart it each time, to its end."""
    chance = random.Random(seed)
    order = bench.order(bench.folder / "undisturbed", picture=picture)
    bench.work(order)
    whole = volumes(bench.folder / "undisturbed")
    done = bad = 0
    repeated = [0]
    lost = [0]
    equal = True
    batches = 0
    while done < instants:
        batches += 1
        output = bench.folder / f"killed_{batches}"
        order = bench.order(output, picture=picture)
        status = -signal.SIGKILL
        while status == -signal.SIGKILL and done < instants:
            instant = chance.randint(0, 5), chance.uniform(0, 0.2)
            status, events = bench.work(order, kill_at=instant)
            if status != -signal.SIGKILL:
                break
            done += 1
            bad += len(partial(output, whole))
            ended = {e["case"] for e in events if e["event"] == "finished"}
            computed = {e["case"] for e in events if e["event"] == "writing"} - ended
            begun = {e["case"] for e in events if e["event"] == "translating"} - ended
            recorded = {record["Options"]["CaseID"] for _, record in find_manifests(output)}
            repeated.append(len(computed - recorded))
            lost.append(len(begun - recorded))
        if status == -signal.SIGKILL:
            status, _ = bench.work(order)
        equal = equal and status == 0 and volumes(output) == whole and not leftovers(output)
        shutil.rmtree(output)
    cases = len(order["jobs"])
    return Row(
        f"`kill -9` of the group at {done} random instants of {cases} cases x {len(TARGETS)} "
        f"targets, restarted each time ({batches} batches)",
        "no partial file under a final name; every output as in an undisturbed run; no temporary "
        "file left; at most one case whose finished translation is made again",
        f"{bad} partial files; {'all' if equal else 'NOT all'} {len(whole)} outputs equal; at most "
        f"{max(repeated)} finished and {max(lost)} begun translations lost by a kill",
        bad == 0 and equal and max(repeated) <= 1 and max(lost) <= 2,
    )


def full_disk(bench: Bench, levels: int) -> Row:
    """Let no file grow beyond a limit, at several limits, after two cases were written."""
    whole = volumes(bench.folder / "undisturbed")
    largest = max((bench.folder / "undisturbed" / name).stat().st_size for name in whole)
    held, seen = True, set()
    for level in range(levels):
        output = bench.folder / f"full_{level}"
        order = bench.order(output)
        bench.work({**order, "jobs": order["jobs"][:2]})
        before = volumes(output)
        limit = EVENTS_BYTES + (largest - EVENTS_BYTES) * level // levels
        status, events = bench.work(order, file_limit=limit)
        line = next((e["line"] for e in events if e["event"] == "refused"), "")
        seen.add(status)
        held = held and status == 4 and "written" in line and volumes(output) == before
        held = held and not partial(output, whole) and not leftovers(output)
        status, _ = bench.work(order)
        held = held and volumes(output) == whole
        shutil.rmtree(output)
    return Row(
        f"no file may grow beyond a limit (RLIMIT_FSIZE), {levels} limits up to the largest output",
        "exit 4 with one line; earlier outputs intact; nothing partial; restart completes",
        f"exit {sorted(seen)}; {'held' if held else 'NOT held'} at all limits",
        held,
    )


def folders(bench: Bench) -> list[Row]:
    """An output folder that cannot be written, and one that vanishes."""
    output = bench.folder / "readonly"
    order = bench.order(output)
    output.chmod(0o555)
    as_root = os.getuid() == 0
    if as_root:
        _open_to_others(bench.folder)
    status, events = bench.work(order, user=NOBODY if as_root else None)
    output.chmod(0o755)
    line = next((e["line"] for e in events if e["event"] == "refused"), "")
    read_only = Row(
        "output folder without permission to write",
        "exit 4 with one line, nothing written",
        f"exit {status}: {line.replace(str(bench.folder), '...')}",
        status == 4 and not any(output.iterdir()),
    )
    output = bench.folder / "vanishing"
    order = bench.order(output)
    job = order["jobs"][0]
    bench.work({**order, "jobs": [job]})
    with vanishing(output):
        status, events = bench.work(order)
    line = next((e["line"] for e in events if e["event"] == "refused"), "")
    there = output.exists()
    shutil.rmtree(output, ignore_errors=True)
    return [
        read_only,
        Row(
            "output folder renamed away while the batch runs",
            "exit 4 with one line; no new folder in its place",
            f"exit {status}: {line.replace(str(bench.folder), '...')}",
            status == 4 and not there,
        ),
    ]


def _open_to_others(folder: Path) -> None:
    """Let another user pass through our own temporary folders."""
    for path in (folder, *folder.parents):
        if path == Path(tempfile.gettempdir()):
            return
        path.chmod(path.stat().st_mode | 0o055)


@contextmanager
def vanishing(folder: Path) -> Iterator[None]:
    """Rename a folder away once the worker in the block has begun to write a case."""

    def wait() -> None:
        names = len(volumes(folder))
        while len(volumes(folder)) < names + len(TARGETS):
            time.sleep(0.01)
        folder.rename(folder.with_name(f"{folder.name}.away"))

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    yield
    thread.join(60)
    shutil.rmtree(folder.with_name(f"{folder.name}.away"), ignore_errors=True)


def damaged_outputs(bench: Bench) -> Row:
    """Delete, truncate, alter and swap finished outputs, then start again."""
    output = bench.folder / "damaged"
    order = bench.order(output)
    bench.work(order)
    whole = volumes(output)
    names = sorted(whole)
    a, b, c, d, e = (output / names[i] for i in (0, 4, 8, 12, 16))
    a.unlink()
    b.write_bytes(b.read_bytes()[:-1])
    data = bytearray(c.read_bytes())
    data[len(data) // 2] ^= 1
    c.write_bytes(data)
    shutil.copy(e, d)
    _, events = bench.work(order)
    again = [e["case"] for e in events if e["event"] == "finished" and e["status"] == "written"]
    kept = [e["case"] for e in events if e["event"] == "finished" and e["status"] == "verified"]
    equal = volumes(output) == whole
    shutil.rmtree(output)
    return Row(
        "finished outputs deleted, truncated by a byte, one bit changed, replaced by another "
        "case's; started again",
        "4 of 4 found and made again, no other",
        f"{len(again)} of 4 made again, {len(kept)} others verified; "
        f"outputs {'equal' if equal else 'NOT equal'}",
        len(again) == 4 and len(kept) == len(order["jobs"]) - 4 and equal,
    )


class Canary:
    """What a pickle runs when it is loaded carelessly."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.path}",)


def weights(bench: Bench) -> list[Row]:
    """Weights that are damaged, a web page, or a program."""
    good = (bench.bundle / WEIGHTS_FILE).read_bytes()
    canary = bench.folder / "canary"
    flipped = bytearray(good)
    flipped[_place_of_data(good)] ^= 1
    kinds = {
        "one bit flipped in the weights": bytes(flipped),
        "weights truncated": good[: len(good) // 2],
        "a web page instead of weights": b"<!DOCTYPE html><html>404</html>",
        "a pickle that runs a command": pickle.dumps(Canary(str(canary))),
    }
    rows = []
    for kind, content in kinds.items():
        bundle = bench.folder / "bad_bundle"
        shutil.copytree(bench.bundle, bundle)
        (bundle / WEIGHTS_FILE).write_bytes(content)
        began = time.monotonic()
        code, line = 0, "accepted"
        try:
            Translator.from_bundle(bundle, device="cpu")
        except VoxlateError as error:
            code, line = error.exit_code, f"{error.what} - {error.todo}"
        seconds = time.monotonic() - began
        shutil.rmtree(bundle)
        rows.append(
            Row(
                kind,
                "exit 5 before the first case; nothing executed",
                f"exit {code} after {seconds:.1f} s: {line}",
                code == 5 and not canary.exists(),
            )
        )
    return rows


def _place_of_data(content: bytes) -> int:
    """A byte in the middle of the largest tensor of a file that torch.save wrote."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        info = max(archive.infolist(), key=lambda entry: entry.file_size)
    return content.index(info.filename.encode(), info.header_offset) + len(info.filename) + 64


def paths(bench: Bench) -> Row:
    """Ids that lead out of the output folder."""
    table = bench.folder / "list.csv"
    scan = next(bench.scans.rglob("*.nii.gz"))
    ids = ["../../escaped", "/tmp/escaped", "a/../../escaped", "..\\escaped", "good"]
    table.write_text("id,t1\n" + "".join(f"{name},{scan}\n" for name in ids))
    output = bench.folder / "paths" / "deep" / "out"
    _, events = bench.work(bench.order(output, scans=table))
    refused = [e for e in events if e["event"] == "finished" and e["status"] == "failed"]
    found = [p for p in bench.folder.rglob("*escaped*") if p.suffix != ".json"]
    outside = [p for p in (bench.folder / "paths").rglob("*.nii.gz") if output not in p.parents]
    return Row(
        "ids `../../x`, `/x`, `a/../../x`, `..\\x` in a CSV",
        "each refused with E_PATH, the good row converted, nothing outside the output folder",
        f"{len(refused)} of 4 refused, {len(volumes(output))} volumes of the good row, "
        f"{len(found) + len(outside)} files outside",
        len(refused) == 4 and len(volumes(output)) == len(TARGETS) and not found and not outside,
    )


def soak(bench: Bench, cases: int) -> Row:
    """Run many cases in one process; watch its memory and its open files."""
    scans = sorted(bench.scans.rglob("*.nii.gz"))
    table = bench.folder / "soak.csv"
    rows = (f"c{index:05d},{scans[index % len(scans)]}\n" for index in range(cases))
    table.write_text("id,t1\n" + "".join(rows))
    output = bench.folder / "soak"
    began = time.monotonic()
    status, events = bench.work(bench.order(output, scans=table), watch=True)
    seconds = time.monotonic() - began
    ended = [e for e in events if e["event"] == "finished"]
    first = min(100, len(ended) // 2)
    early = sorted(e["kB"] for e in ended[first - first // 2 : first + first // 2])
    late = sorted(e["kB"] for e in ended[-first:])
    growth = late[len(late) // 2] / early[len(early) // 2] - 1
    open_files = {e["open"] for e in ended[first:]}
    written = sum(e["status"] == "written" for e in ended)
    shutil.rmtree(output)
    return Row(
        f"{cases} small cases in one process",
        "memory grows by at most 2 % after case 100 (medians of 100 cases); open files constant",
        f"{written} written in {seconds:.0f} s; memory {growth:+.2%}; open files between "
        f"{min(open_files)} and {max(open_files)}, while a case is written and read or not",
        status == 0
        and written == cases
        and growth <= 0.02
        and max(open_files) - min(open_files) <= 6,
    )


def all_others(bench: Bench, *, cases: int) -> Iterator[Row]:
    """Every trial but the kills, which come first and leave an undisturbed run behind."""
    yield full_disk(bench, 10)
    yield from folders(bench)
    yield damaged_outputs(bench)
    yield from weights(bench)
    yield paths(bench)
    yield soak(bench, cases)
