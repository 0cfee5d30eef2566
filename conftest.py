"""Make ``voxlate`` importable from a bare checkout: tests run before it is installed."""

import importlib.util
import sys
import types
from pathlib import Path

if importlib.util.find_spec("voxlate") is None:
    package = types.ModuleType("voxlate")
    package.__path__ = [str(Path(__file__).parent)]
    package.__version__ = "0+checkout"  # type: ignore[attr-defined]
    sys.modules["voxlate"] = package
