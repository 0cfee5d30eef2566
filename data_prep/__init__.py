"""Scans on disk to tensors and back: reading, checking, preparing, restoring, writing, finding."""

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
from .preprocess import Prepared, Preprocessing, Record
from .reading import Scan, read_mask, read_scan, scan_from_array
from .writing import write_atomically, write_scan

__all__ = [
    "DEFAULT_MODALITIES",
    "DeviceError",
    "GridPlan",
    "IntensityMap",
    "NoInputError",
    "OutputError",
    "Prepared",
    "Preprocessing",
    "Record",
    "Scan",
    "ScanError",
    "UsageError",
    "VoxlateError",
    "WeightsError",
    "foreground",
    "guess_modality",
    "parse_modality",
    "read_mask",
    "read_scan",
    "scan_from_array",
    "write_atomically",
    "write_scan",
]
