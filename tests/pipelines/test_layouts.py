"""Names of results: mirrored trees and BIDS derivatives."""

import json
from pathlib import Path

from voxlate.pipelines.bids import write_dataset_files
from voxlate.pipelines.layouts import bids_files, tree_files


def test_tree_names_follow_the_scan() -> None:
    files = tree_files("a/pat/t1", ["t2", "flair"])
    assert files.volumes == {"t2": "a/pat/t1_t2.nii.gz", "flair": "a/pat/t1_flair.nii.gz"}
    assert files.folder == "a/pat"
    assert files.names == ["t1_t2.nii.gz", "t1_flair.nii.gz", "t1_qc.png", "t1.json"]
    assert tree_files("plain", ["t2"], picture=False).folder == "."


def test_bids_names_keep_entities_in_their_order() -> None:
    files = bids_files("sub-01/ses-2/anat/sub-01_ses-2_acq-a_run-1_T1w", ["t2", "t1ce"])
    anat = "sub-01/ses-2/anat/sub-01_ses-2_acq-a"
    assert files.volumes["t2"] == f"{anat}_run-1_desc-synth_T2w.nii.gz"
    assert files.volumes["t1ce"] == f"{anat}_ce-gadolinium_run-1_desc-synth_T1w.nii.gz"
    assert files.sidecars["t2"] == f"{anat}_run-1_desc-synth_T2w.json"
    assert files.names[-1] == "sub-01_ses-2_acq-a_run-1_from-T1w_manifest.json"


def test_bids_sources_with_and_without_contrast_agent_have_their_own_records() -> None:
    plain, enhanced = (
        bids_files(f"sub-01/anat/sub-01_{name}", ["t2"]) for name in ("T1w", "ce-gad_T1w")
    )
    assert plain.record != enhanced.record


def test_derivatives_describe_themselves_once(tmp_path: Path) -> None:
    raw, out = tmp_path / "raw", tmp_path / "raw" / "derivatives" / "voxlate"
    out.mkdir(parents=True)
    write_dataset_files(out, raw)
    found = json.loads((out / "dataset_description.json").read_text())
    assert found["DatasetType"] == "derivative" and found["GeneratedBy"][0]["Name"] == "voxlate"
    assert found["DatasetLinks"] == {"raw": "../.."}
    assert "*_manifest.json" in (out / ".bidsignore").read_text().split()
    (out / "dataset_description.json").write_text("mine")
    write_dataset_files(out, raw)
    assert (out / "dataset_description.json").read_text() == "mine"
