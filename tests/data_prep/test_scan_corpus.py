import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from scan_corpus import ENTRIES, SECRET, Entry, bomb, header, packed, voxels, write_corpus

from voxlate.data_prep import Preprocessing, ScanError, read_scan, write_scan

TOO_LONG = 2.0  #: seconds
TOO_MUCH = 200  #: MiB


def entry(number: str) -> Entry:
    return next(e for e in ENTRIES if e.name.startswith(number))


def codes(warnings: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(text.split(":")[0] for text in warnings)


@pytest.mark.parametrize("case", [e for e in ENTRIES if e.code], ids=lambda e: e.name.split("_")[0])
def test_bad_file_gets_its_code_in_one_line_with_advice(case: Entry, tmp_path: Path) -> None:
    path = case.write(tmp_path)
    begun = time.process_time()
    with pytest.raises(ScanError) as caught:
        read_scan(path)
    assert time.process_time() - begun < TOO_LONG
    assert caught.value.code == case.code, str(caught.value)
    line = str(caught.value)
    assert line.isprintable() and line.startswith(str(path)) and " - " in line
    assert case.says in line
    assert caught.value.what and caught.value.todo
    assert "root:" not in line


@pytest.mark.parametrize(
    "case", [e for e in ENTRIES if not e.code], ids=lambda e: e.name.split("_")[0]
)
def test_usable_file_is_read_and_what_is_odd_is_told(case: Entry, tmp_path: Path) -> None:
    scan = read_scan(case.write(tmp_path))
    assert codes(scan.warnings) == case.warnings
    assert scan.data.dtype == np.float32 and np.isfinite(scan.data).all()
    assert np.isfinite(scan.affine).all() and scan.shape == (36, 40, 34)
    assert len(scan.sha256) == 64
    assert SECRET.decode() not in " ".join(scan.warnings)
    again = read_scan(write_scan(tmp_path / "out.nii", scan.data, scan))
    np.testing.assert_array_equal(again.data, scan.data)
    np.testing.assert_allclose(again.affine, scan.affine, atol=1e-3, rtol=1e-6)
    assert SECRET not in (tmp_path / "out.nii").read_bytes()


def test_one_hot_voxel_leaves_the_intensities_as_they_were(tmp_path: Path) -> None:
    hot, control = (
        Preprocessing().apply(read_scan(entry(n).write(tmp_path))).volume for n in ("E09", "00")
    )
    error = float(((hot - control) ** 2).mean())
    assert 10 * np.log10(4 / error) > 40


def test_huge_intensities_are_prepared_without_overflow(tmp_path: Path) -> None:
    volume = Preprocessing().apply(read_scan(entry("E06").write(tmp_path))).volume
    assert volume.isfinite().all() and volume.max() == 1


def measured(paths: list[Path]) -> dict:
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("run_reader.py"), *paths],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    return json.loads(done.stdout)


def test_no_file_of_the_corpus_costs_memory_or_time(tmp_path: Path) -> None:
    paths = write_corpus(tmp_path / "corpus")
    found = measured(list(paths.values()))
    assert found["verdicts"] == {e.name: e.code for e in ENTRIES}
    assert found["seconds"] < TOO_LONG and found["mib"] < TOO_MUCH


def sparse(path: Path, head: bytes, size: int) -> Path:
    """A file that claims ``size`` bytes and holds hardly any."""
    with open(path, "wb") as file:
        file.write(head)
        file.truncate(size)
    return path


def test_refusal_of_a_large_file_costs_no_more(tmp_path: Path) -> None:
    """Near the limits of size: zeros packed a thousandfold or as holes, a cut-off volume."""
    large = (400, 400, 300)
    noise = np.random.default_rng(0).integers(0, 9000, 2**21, dtype=np.int16).tobytes()
    head = header(large, 4, 16)
    cut = packed(bytes(head) + noise * 22, level=1)
    paths = {
        "bomb.nii.gz": bomb((450, 450, 400), 80),
        "cut.nii.gz": cut[: len(cut) // 2],
        "silent.nii.gz": b"\x1f\x8b\x08\x10" + bytes(6) + b"x" * 2**23,
        "members.nii.gz": packed(b"") * 400_000,
        "tail.nii.gz": packed(b"n") + b"t" * 2**25,
    }
    for name, content in paths.items():
        (tmp_path / name).write_bytes(content)
    files = [tmp_path / name for name in paths]
    files.append(sparse(tmp_path / "short.nii", bytes(head), 2**26))
    files.append(sparse(tmp_path / "hole.nii", bytes(head), 352 + 2 * 48_000_000))
    files.append(sparse(tmp_path / "huge.nii", bytes(header()), 2**40))
    found = measured(files)
    assert found["verdicts"] == {
        "bomb.nii.gz": "E_SIZE",
        "cut.nii.gz": "E_TRUNCATED",
        "silent.nii.gz": "E_CORRUPT",
        "members.nii.gz": "E_CORRUPT",
        "tail.nii.gz": "E_SIZE",
        "short.nii": "E_TRUNCATED",
        "hole.nii": "E_CONSTANT",
        "huge.nii": "E_SIZE",
    }
    assert found["seconds"] < TOO_LONG and found["mib"] < TOO_MUCH


def test_damage_on_the_way_is_named_rather_than_the_header_it_garbled(tmp_path: Path) -> None:
    content = bytearray(packed(bytes(header(magic=b"xyz\0")) + voxels().tobytes("F")))
    content[-8:-4] = b"\0\0\0\0"
    (tmp_path / "a.nii.gz").write_bytes(content)
    with pytest.raises(ScanError) as caught:
        read_scan(tmp_path / "a.nii.gz")
    assert caught.value.code == "E_CRC"
