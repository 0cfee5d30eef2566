"""The file a verdict is about: how a refusal names it, and the warnings gathered on the way."""

from __future__ import annotations

from pathlib import Path

from .errors import ScanError


class ScanFile:
    """What a refusal needs to know, and the warnings gathered on the way."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.warnings: list[str] = []

    def refuse(self, code: str, what: str, todo: str) -> ScanError:
        """Make the refusal that names this file."""
        return ScanError(what, todo, code=code, file=self.path)

    def warn(self, code: str, text: str) -> None:
        """Note what is tolerated."""
        self.warnings.append(f"{code}: {text}")

    def truncated(self) -> ScanError:
        """Make the refusal of a file that ends too early."""
        return self.refuse("E_TRUNCATED", "the file ends too early", "copy or download it again")
