"""The JSON record beside the files: what made them, from what, and what they are not for."""

import platform
from collections.abc import Mapping
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import voxlate
from voxlate.data_prep import MEANING

from .case_steps import Translation
from .manifest import SCHEMA, fingerprint

STATEMENT = (
    "Synthetic images for research. Not a medical device: lesions can be lost or invented; never "
    "use them for diagnosis, treatment or any decision about a patient."
)


def describe(
    translation: Translation,
    outputs: Mapping[str, Mapping[str, Any]],
    picture: Mapping[str, Any] | None = None,
    deviations: Mapping[str, Mapping[str, Any]] | None = None,
) -> dict[str, Any]:
    """Everything needed to repeat a translation and to recognise its files.

    The input is named by its file name and checksum alone; its header's text is not read. Fields
    are explained in docs/batch.md, their types are in ``manifest.schema.json``.

    Args:
        translation: What was made.
        outputs: By target, the file as ``file_entry`` has it.
        picture: The picture, likewise.
        deviations: The samples' standard deviation by target, likewise.
    """
    origin = translation.origin
    return {
        "Schema": SCHEMA,
        "Synthetic": True,
        "Statement": STATEMENT,
        "Input": {
            "File": translation.scan.path.name,
            "SHA256": translation.scan.sha256,
            "Modality": translation.source,
            "Shape": list(translation.scan.shape),
            "SpacingMM": [round(size, 4) for size in translation.scan.spacing],
            "SkullStripped": translation.skull_stripped,
        },
        "OtherInputs": [_other(translation, name) for name in translation.others],
        "Outputs": {target: dict(entry) for target, entry in outputs.items()},
        **({"Deviations": dict(deviations)} if deviations else {}),
        "Picture": None if picture is None else dict(picture),
        "IntensityScale": MEANING[translation.scale.name],
        "Intensity": translation.lines,
        "StoredAs": translation.stored_as,
        "BackgroundSetToZero": translation.skull_stripped,
        "Suitability": _suitability(translation),
        "Scores": {target: found.fields() for target, found in translation.scores.items()},
        "Options": {
            "Targets": list(translation.volumes),
            "CaseID": translation.case_id,
            "Seed": translation.seed,
            "Steps": translation.steps,
            **_further(translation),
        },
        "Bundle": None
        if origin is None
        else {
            "Name": origin.bundle,
            "Version": origin.version,
            "WeightsSHA256": origin.sha256,
            "ConfigurationSHA256": origin.configuration,
        },
        "Fingerprint": translation_fingerprint(translation),
        "Device": str(translation.device),
        "DataType": str(translation.dtype).removeprefix("torch."),
        "Software": {
            "voxlate": voxlate.__version__,
            "python": platform.python_version(),
            **{name: _version(name) for name in ("torch", "monai", "numpy", "nibabel")},
        },
        "Written": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "Seconds": translation.seconds,
        "Warnings": list(translation.warnings),
    }


def translation_fingerprint(translation: Translation) -> str | None:
    """Of what decided its voxels; None where the weights come from nowhere."""
    if translation.origin is None:
        return None
    return fingerprint(
        weights=translation.origin.sha256,
        configuration=translation.origin.configuration,
        seed=translation.seed,
        steps=translation.steps,
        scale=translation.scale.identity,
        stored_as=translation.stored_as,
        further=translation.further,
    )


def _further(translation: Translation) -> dict[str, Any]:
    """Options that are in the record only where they were given."""
    found = dict(translation.further)
    overrides = found.get("overrides")
    sampled = {"Samples": len(translation.seeds), "SampleSeeds": list(translation.seeds)}
    return {
        **(sampled if translation.seeds else {}),
        **({"Register": found["register"]} if "register" in found else {}),
        **({"Overrides": overrides} if overrides else {}),
    }


def _other(translation: Translation, modality: str) -> dict[str, Any]:
    """A further contrast that was given, and how it was laid over the first."""
    scan, move = translation.others[modality], translation.moves.get(modality)
    found: dict[str, Any] = {
        "File": scan.path.name,
        "SHA256": scan.sha256,
        "Modality": modality,
        "Registered": None,
    }
    if move is not None:
        found["Registered"] = {
            "MatrixRASMM": move.matrix.tolist(),
            "ShiftMM": round(move.shift_mm, 3),
            "TurnDeg": round(move.turn_deg, 3),
            "InformationNats": round(move.information, 4),
            "Overlap": round(move.overlap, 4),
        }
    return found


def _suitability(translation: Translation) -> dict[str, Any] | None:
    """What was measured of the input, for whoever sets other limits."""
    found = translation.suitability
    if found is None:
        return None
    return {
        "ForegroundML": round(found.foreground_ml, 1),
        "ExtentMM": [round(size, 1) for size in found.extent_mm],
        "CutMM2": round(found.cut_mm2, 1),
        "Skewness": round(found.skewness, 3),
        "Skull": found.skull,
    }


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "unknown"
