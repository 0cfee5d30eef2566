"""The record: enough to repeat the run, nothing that names the patient."""

import json
from importlib import resources
from pathlib import Path

import jsonschema
import pytest

import voxlate
from voxlate.pipelines import Translation, Translator
from voxlate.pipelines.bundle import NETWORK_FILE, WEIGHTS_FILE
from voxlate.pipelines.checkpoint import sha256_of
from voxlate.pipelines.manifest import SCHEMA, fingerprint
from voxlate.pipelines.quality_scores import MIN_EDGES
from voxlate.pipelines.sidecar import describe

SCHEMA_FILE = "manifest.schema.json"


@pytest.fixture
def translation(tiny_bundle: Path, head_file: Path) -> Translation:
    return Translator.from_bundle(tiny_bundle, device="cpu")(head_file, "t1", ["t2"], seed=5)


def test_record_says_what_was_done_with_what(
    translation: Translation, tiny_bundle: Path, head_file: Path
) -> None:
    entry = {"File": "x_t2.nii.gz", "Bytes": 7, "SHA256": "a" * 64}
    record = json.loads(json.dumps(describe(translation, {"t2": entry}, entry)))
    schema = json.loads(resources.files("voxlate.pipelines").joinpath(SCHEMA_FILE).read_text())
    jsonschema.validate(record, schema)
    assert record["Schema"] == SCHEMA == schema["$id"]
    assert record["Synthetic"] is True
    assert "Not a medical device" in record["Statement"]
    assert record["Input"]["SHA256"] == sha256_of(head_file)
    assert record["Input"]["SkullStripped"] is True and record["BackgroundSetToZero"] is True
    assert record["Bundle"]["WeightsSHA256"] == sha256_of(tiny_bundle / "models" / "model.pt")
    assert record["Options"] == {
        "Targets": ["t2"],
        "CaseID": "scans.one_t1",
        "Seed": 5,
        "Steps": 2,
    }
    assert record["Outputs"] == {"t2": entry} and record["Picture"] == entry
    weights, configuration = (tiny_bundle / name for name in (WEIGHTS_FILE, NETWORK_FILE))
    assert record["Fingerprint"] == fingerprint(
        weights=sha256_of(weights), configuration=sha256_of(configuration), seed=5, steps=2
    )
    assert record["Scores"] == {"t2": translation.scores["t2"].fields()}
    assert 0 < record["Scores"]["t2"]["EdgeAgreement"] < 1
    assert record["Device"] == "cpu" and record["DataType"] in ("float32", "bfloat16")
    assert record["Software"]["voxlate"] == voxlate.__version__
    assert "99.5th percentile" in record["IntensityScale"]


def test_a_score_beyond_its_limit_is_a_warning_of_the_record(translation: Translation) -> None:
    found = translation.scores["t2"]
    assert found.edges is not None and found.edges < MIN_EDGES  # the weights are random
    assert set(found.warnings) <= set(describe(translation, {})["Warnings"])
    assert any(text.startswith("W_EDGES: t2 ") for text in found.warnings)


def test_record_of_before_there_were_scores_fits_the_schema(translation: Translation) -> None:
    entry = {"File": "x_t2.nii.gz", "Bytes": 7, "SHA256": "a" * 64}
    record = json.loads(json.dumps(describe(translation, {"t2": entry}, entry)))
    del record["Scores"]
    schema = json.loads(resources.files("voxlate.pipelines").joinpath(SCHEMA_FILE).read_text())
    jsonschema.validate(record, schema)


def test_record_has_neither_header_text_nor_folders(
    translation: Translation, head_file: Path
) -> None:
    text = json.dumps(describe(translation, {}))
    assert "DOE" not in text
    assert str(head_file.parent) not in text
