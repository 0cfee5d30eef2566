"""A record is believed only as far as the files beside it agree."""

import json
from pathlib import Path
from typing import Any

import pytest

from voxlate.data_prep import OutputError
from voxlate.pipelines.manifest import (
    SCHEMA,
    difference,
    find_manifests,
    fingerprint,
    read_manifest,
)
from voxlate.pipelines.outputs import file_entry

PARTS: dict[str, Any] = {"weights": "a", "configuration": "b", "seed": 0, "steps": 2}


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    """A record with two files that are as it says."""
    outputs = {}
    for target in ("t2", "flair"):
        path = tmp_path / f"x_{target}.nii.gz"
        path.write_bytes(target.encode() * 50)
        outputs[target] = file_entry(path)
    content = {"Schema": SCHEMA, "Outputs": outputs, "Picture": None}
    (tmp_path / "x.json").write_text(json.dumps(content))
    return tmp_path / "x.json"


def damage(kind: str, folder: Path) -> None:
    path = folder / "x_t2.nii.gz"
    data = path.read_bytes()
    if kind == "deleted":
        path.unlink()
    elif kind == "truncated":
        path.write_bytes(data[:-1])
    elif kind == "one bit":
        path.write_bytes(data[:10] + bytes([data[10] ^ 1]) + data[11:])
    elif kind == "swapped":
        path.write_bytes((folder / "x_flair.nii.gz").read_bytes())


@pytest.mark.parametrize("kind", ["deleted", "truncated", "one bit", "swapped"])
def test_every_damage_is_found_and_named(kind: str, finished: Path) -> None:
    record = read_manifest(finished)
    assert difference(record, finished.parent) is None
    damage(kind, finished.parent)
    found = difference(record, finished.parent)
    assert found is not None and "x_t2.nii.gz" in found


def test_sizes_alone_miss_a_changed_byte_and_nothing_else(finished: Path) -> None:
    record = read_manifest(finished)
    damage("one bit", finished.parent)
    assert difference(record, finished.parent, full=False) is None
    damage("truncated", finished.parent)
    assert difference(record, finished.parent, full=False) is not None


@pytest.mark.parametrize("part", PARTS)
def test_whatever_decides_a_voxel_changes_the_fingerprint(part: str) -> None:
    other = {**PARTS, part: 7 if isinstance(PARTS[part], int) else "z"}
    assert fingerprint(**PARTS) == fingerprint(**dict(reversed(PARTS.items())))
    assert fingerprint(**other) != fingerprint(**PARTS)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"Schema": "else"}'])
def test_what_is_no_record_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(OutputError, match="no record"):
        read_manifest(tmp_path / "x.json")
    assert list(find_manifests(tmp_path)) == []


def test_records_are_found_below_a_folder(finished: Path) -> None:
    assert [path for path, _ in find_manifests(finished.parent)] == [finished]
