"""This checkout as a package that child processes can import, installed or not."""

from pathlib import Path

ROOT = Path(__file__).parents[2]


def package(folder: Path) -> Path:
    """A folder, for ``PYTHONPATH``, from which this checkout is imported as ``voxlate``."""
    (folder / "voxlate").mkdir(parents=True)
    for room in ("bundles", "data_prep", "networks", "pipelines"):
        (folder / "voxlate" / room).symlink_to(ROOT / room)
    (folder / "voxlate" / "__init__.py").symlink_to(ROOT / "src" / "voxlate" / "__init__.py")
    return folder
