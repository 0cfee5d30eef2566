"""Read thousands of damaged headers and files in a process of its own: one line of JSON.

Bytes of the header are replaced (some by values that are known to hurt), files are cut, compressed
bytes are changed. A file is read or refused with a ``ScanError``; what is read must be finite and
must survive being written and read again. Anything else is a crash, and its seed is in the answer.
"""

import collections
import json
import sys
import time
import traceback
from pathlib import Path

import numpy as np
from run_reader import peak_mib
from scan_corpus import FIELDS, nifti2, packed, plain, voxels

from voxlate.data_prep import Overrides, ScanError, read_scan, write_scan

SHAPE = (32, 34, 33)
HURTFUL = (0, 1, 127, 128, 255)
LENIENT = Overrides(assume_mm=True, shear=True, content=True, volume=None)


def bases() -> list[tuple[bytes, int]]:
    """Whole files and the sizes of their headers."""
    data = voxels(SHAPE)
    return [
        (plain(data), 352),
        (plain(data, order=">"), 352),
        (plain(data.astype(np.float32)), 352),
        (nifti2(data), 544),
    ]


def mutate(content: bytes, size: int, rng: np.random.Generator) -> tuple[str, bytes]:
    """Damage a file in one of six ways; return the name that it would have."""
    raw = bytearray(content)
    how = int(rng.integers(6))
    if how < 2:  # single bytes
        for _ in range(int(rng.integers(1, 5))):
            value = HURTFUL[int(rng.integers(5))] if how else int(rng.integers(256))
            raw[int(rng.integers(size))] = value
    elif how == 2:  # a whole field
        kind, offset = FIELDS[list(FIELDS)[int(rng.integers(len(FIELDS)))]]
        width = {"b": 1, "B": 1, "h": 2, "i": 4, "f": 4, "s": 4}[kind[-1]]
        raw[offset : offset + width] = rng.bytes(width)
    elif how == 3:  # cut
        raw = raw[: int(rng.integers(len(raw)) if rng.integers(2) else rng.integers(2 * size))]
    elif how == 4:  # cut after compression
        whole = packed(bytes(raw), 1)
        return "a.nii.gz", whole[: int(rng.integers(len(whole)))]
    else:  # changed after compression
        raw = bytearray(packed(bytes(raw), 1))
        for _ in range(int(rng.integers(1, 4))):
            raw[int(rng.integers(len(raw)))] = int(rng.integers(256))
        return "a.nii.gz", bytes(raw)
    return "a.nii", bytes(raw)


def main(count: int, folder: Path) -> None:
    found: collections.Counter[str] = collections.Counter()
    crashes, slowest = [], 0.0
    files = bases()
    read_scan(_put(folder / "a.nii", files[0][0]))
    before = peak_mib()
    for seed in range(count):
        rng = np.random.default_rng(seed)
        name, content = mutate(*files[seed % len(files)], rng)
        path = _put(folder / name, content)
        begun = time.process_time()
        try:
            scan = read_scan(path, overrides=LENIENT if seed % 2 else Overrides())
            slowest = max(slowest, time.process_time() - begun)
            assert np.isfinite(scan.data).all() and np.isfinite(scan.affine).all()
            again = read_scan(write_scan(folder / "out.nii", scan.data, scan), overrides=LENIENT)
            np.testing.assert_array_equal(again.data, scan.data)
            np.testing.assert_allclose(again.affine, scan.affine, rtol=1e-5, atol=1e-3)
            found["read"] += 1
        except ScanError as error:
            slowest = max(slowest, time.process_time() - begun)
            assert str(error).isprintable()
            found[error.code] += 1
        except Exception:  # noqa: BLE001 (every other exception is the finding)
            crashes.append(f"seed {seed}: {traceback.format_exc(limit=-2)}")
    mib = peak_mib() - before
    print(json.dumps({"crashes": crashes, "seconds": slowest, "mib": mib, "found": dict(found)}))


def _put(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
