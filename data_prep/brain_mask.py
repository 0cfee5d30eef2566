"""The brain in a scan, found by a program of the user's choice."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from .errors import ScanError, UsageError
from .labels import read_voxels
from .reading import Scan
from .writing import write_scan

MIN_SHARE, MAX_SHARE = 0.01, 0.95  #: of the volume; a mask beyond is no brain


def brain_from_command(
    scan: Scan, command: Sequence[str], *, timeout_s: float = 1800
) -> npt.NDArray[np.bool_]:
    """Let a program such as HD-BET or SynthStrip find the brain.

    It is started without a shell. It may write a mask or a stripped image: the brain is what is
    above 0.

    Args:
        scan: Goes to the program as ``{input}``, a NIfTI file.
        command: Program and arguments, with ``{input}`` and ``{output}`` where the files' names go.
        timeout_s: Longest time it may take.

    Raises:
        UsageError: The command has no ``{input}`` or ``{output}``, or there is no such program.
        ScanError: The program fails, takes too long, or leaves no usable mask.
    """
    words = " ".join(command)
    if "{input}" not in words or "{output}" not in words:
        raise UsageError(
            f"the brain mask command is {words!r}",
            "put {input} and {output} where the names of the files go",
            code="E_COMMAND",
        )
    with tempfile.TemporaryDirectory(prefix="voxlate-") as folder:
        given, made = Path(folder, "input.nii.gz"), Path(folder, "output.nii.gz")
        write_scan(given, scan.data, scan)
        names = {"{input}": str(given), "{output}": str(made)}
        arguments = [_filled(word, names) for word in command]
        try:
            done = subprocess.run(
                arguments,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=timeout_s,
                check=False,
            )
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise UsageError(
                f"{command[0]} cannot be started ({reason})",
                "install it, or give its full path",
                code="E_COMMAND",
            ) from None
        except subprocess.TimeoutExpired:
            raise _refusal(scan, command, f"took more than {timeout_s:.0f} s") from None
        if done.returncode:
            lines = (done.stderr or done.stdout).strip().splitlines() or ["no message"]
            raise _refusal(scan, command, f"ended with {done.returncode} ({lines[-1][:200]})")
        if not made.is_file():
            raise _refusal(scan, command, "wrote no output")
        found = read_voxels(made)
    if found.shape != scan.shape or not np.allclose(found.affine, scan.affine, atol=1e-2):
        raise _refusal(scan, command, "wrote a mask on another grid")
    mask = np.asarray(found.data > 0)
    if not MIN_SHARE < mask.mean() < MAX_SHARE:
        raise _refusal(scan, command, f"says that the brain is {mask.mean():.1%} of the volume")
    return mask


def _filled(word: str, names: dict[str, str]) -> str:
    for placeholder, name in names.items():
        word = word.replace(placeholder, name)
    return word


def _refusal(scan: Scan, command: Sequence[str], reason: str) -> ScanError:
    return ScanError(
        f"{command[0]} {reason}",
        "run it by hand on this scan, or leave the case out",
        code="E_COMMAND",
        file=scan.path,
    )
