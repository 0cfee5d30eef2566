"""What a prediction looks like beside the truth: three cuts, and where they differ."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from torch import Tensor

from .evaluation_row import TRANSLATION, Row
from .evaluation_truth import Truth
from .qc_picture import PLANES

CUTS_FOLDER = ".cuts"
DIFFERENCE = 0.5  #: of the brain's range: the ends of the difference map's colours
RANDOM = 2  #: pictures of cases drawn by chance, for each direction
INCHES, DPI = 2.4, 100

Cut = npt.NDArray[np.uint8]


class Key(NamedTuple):
    """Which prediction."""

    run: str
    case: str
    given: str
    target: str


@dataclass(frozen=True)
class Choice:
    """A prediction that is shown, and why: ``best``, ``median``, ``worst`` or ``random``."""

    why: str
    key: Key
    psnr: float


def keep_cuts(folder: Path, key: Key, prediction: Float[Tensor, "x y z"], truth: Truth) -> None:
    """Save three cuts of a pair, through the lesion's middle or the brain's, as bytes on [0, 1]."""
    region = truth.lesion if truth.lesion is not None and bool(truth.lesion.any()) else truth.brain
    centre = [int(axis.double().median()) for axis in region.nonzero().T]
    arrays: dict[str, Any] = {"spacing": np.array(truth.spacing)}
    lesion = torch.zeros_like(truth.brain) if truth.lesion is None else truth.lesion
    for name, volume in (
        ("reference", truth.scaled),
        ("prediction", truth.to_scale(prediction)),
        ("lesion", lesion.float()),
    ):
        for plane in PLANES:
            cut = volume.select(plane.normal, centre[plane.normal])
            arrays[f"{name}_{plane.name}"] = (cut.clamp(0, 1) * 255).round().byte().numpy()
    folder.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(folder / _name(key), **arrays)


def choose(rows: Sequence[Row], *, seed: int = 0) -> list[Choice]:
    """For each run and direction: best, median and worst by PSNR in the brain, and two by chance.

    Absent predictions have no picture. Of a few cases some are all of these at once, and are shown
    once, under the first.
    """
    found: dict[tuple[str, str, str], list[tuple[float, str]]] = {}
    for row in rows:
        where = row.metric_set, row.region, row.metric, row.answer
        if where == ("default", "brain", "psnr", TRANSLATION) and not row.absent:
            direction = row.run, row.given, row.target
            found.setdefault(direction, []).append((row.value, row.case))
    choices = []
    generator = np.random.default_rng(seed)
    for (run, given, target), values in found.items():
        ordered = sorted(values)
        named = {
            "worst": ordered[0],
            "median": ordered[len(ordered) // 2],
            "best": ordered[-1],
        }
        drawn = generator.permutation(len(ordered))[:RANDOM]
        picks = [*named.items(), *(("random", ordered[int(i)]) for i in drawn)]
        seen: set[str] = set()
        for why, (psnr, case) in picks:
            if case not in seen:
                seen.add(case)
                choices.append(Choice(why, Key(run, case, given, target), psnr))
    return choices


def draw(folder: Path, choice: Choice) -> bytes | None:
    """A PNG of the cuts that were kept: reference, prediction, difference; None if there are none.

    The difference is prediction minus reference, blue where too dark, red where too bright, full
    colour at half the brain's range. A lesion that an expert drew is outlined in yellow.
    """
    file = folder / _name(choice.key)
    if not file.is_file():
        return None
    from matplotlib.figure import Figure  # heavy, and only needed here

    with np.load(file) as cuts:
        arrays = dict(cuts)
    sizes = arrays["spacing"]
    extents = [
        (
            arrays[f"reference_{p.name}"].shape[0] * sizes[p.across],
            arrays[f"reference_{p.name}"].shape[1] * sizes[p.up],
        )
        for p in PLANES
    ]
    heights = [up / across for across, up in extents]
    figure = Figure(figsize=(3 * INCHES, INCHES * sum(heights) + 0.5), facecolor="black", dpi=DPI)
    axes = figure.subplots(len(PLANES), 3, squeeze=False, height_ratios=heights)
    for row, plane, (across, up) in zip(axes, PLANES, extents, strict=True):
        reference, prediction = (
            arrays[f"{name}_{plane.name}"].astype(np.float32) / 255
            for name in ("reference", "prediction")
        )
        place = {"origin": "lower", "extent": (0, across, 0, up), "interpolation": "nearest"}
        grey = {"cmap": "gray", "vmin": 0, "vmax": 1}
        row[0].imshow(reference.T, **grey, **place)
        row[1].imshow(prediction.T, **grey, **place)
        row[2].imshow(
            (prediction - reference).T, cmap="bwr", vmin=-DIFFERENCE, vmax=DIFFERENCE, **place
        )
        lesion = arrays[f"lesion_{plane.name}"]
        for axis in row:
            if lesion.any():
                axis.contour(
                    lesion.T > 127,
                    levels=[0.5],
                    colors="yellow",
                    linewidths=0.5,
                    origin="lower",
                    extent=(0, across, 0, up),
                )
            axis.set_axis_off()
            for end, x in zip(plane.ends, (0.02, 0.98), strict=True):
                align = "left" if x < 0.5 else "right"
                axis.text(x, 0.5, end, color="gold", fontsize=7, ha=align, transform=axis.transAxes)
    titles = (f"real {choice.key.target}", "prediction", "prediction - real")
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title, color="white", fontsize=9)
    figure.tight_layout(pad=0.3)
    file_bytes = io.BytesIO()
    figure.savefig(file_bytes, format="png", facecolor="black")
    return file_bytes.getvalue()


def picture_name(choice: Choice) -> str:
    """A file name for a picture: run, direction, why and case."""
    key = choice.key
    parts = [key.run, key.given, key.target, choice.why, key.case.replace("/", "_")]
    return "".join(c if c.isalnum() or c in "+-._" else "_" for c in "_".join(filter(None, parts)))


def _name(key: Key) -> str:
    from hashlib import sha256

    return sha256("\0".join(key).encode()).hexdigest()[:32] + ".npz"
