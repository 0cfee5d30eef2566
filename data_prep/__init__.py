"""Scans on disk to tensors and back: reading, checking, preparing, restoring, writing, finding."""

from .atomic_file import write_atomically
from .cases import Case, find_cases, load_datalist, save_datalist, split_by_subject
from .errors import (
    DeviceError,
    NoInputError,
    OutputError,
    ScanError,
    UsageError,
    VoxlateError,
    WeightsError,
)
from .geometry import GridPlan
from .intensity import IntensityMap, foreground
from .modalities import DEFAULT_MODALITIES, guess_modality, parse_modality
from .nifti import NiftiFile
from .output_scale import MEANING, UNIT, OutputScale, parse_output_scale
from .overrides import Overrides
from .phantom import Phantom, make_phantom, write_phantom_case
from .preprocess import Prepared, Preprocessing, Record
from .reading import Scan, read_mask, read_scan, scan_from_array
from .registration import register_rigid
from .rigid_transform import RigidTransform, resample
from .suitability import Suitability, assess
from .writing import write_scan

__all__ = [
    "Case",
    "DEFAULT_MODALITIES",
    "DeviceError",
    "GridPlan",
    "MEANING",
    "IntensityMap",
    "NiftiFile",
    "NoInputError",
    "OutputError",
    "OutputScale",
    "Overrides",
    "Phantom",
    "Prepared",
    "Preprocessing",
    "Record",
    "RigidTransform",
    "Scan",
    "ScanError",
    "Suitability",
    "UNIT",
    "UsageError",
    "VoxlateError",
    "WeightsError",
    "assess",
    "find_cases",
    "foreground",
    "guess_modality",
    "load_datalist",
    "make_phantom",
    "parse_modality",
    "parse_output_scale",
    "read_mask",
    "read_scan",
    "register_rigid",
    "resample",
    "save_datalist",
    "scan_from_array",
    "split_by_subject",
    "write_atomically",
    "write_phantom_case",
    "write_scan",
]
