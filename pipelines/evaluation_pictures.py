"""What a prediction looks like beside the truth: three cuts, and where they differ."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from scipy import ndimage
from torch import Tensor

from .evaluation_row import TRANSLATION, Row
from .evaluation_truth import Truth
from .qc_picture import PLANES, Plane

CUTS_FOLDER = ".cuts"
DIFFERENCE = 0.5  #: of the brain's range: the ends of the difference map's colours
RANDOM = 2  #: pictures of cases drawn by chance, for each direction
DPI, TITLE, GAP = 100, 26, 4  #: pixels an inch; of the titles' line; between cuts
PIXELS_PER_MM = 1.6

FloatArray = npt.NDArray[np.float32]


class Key(NamedTuple):
    """Which prediction."""

    run: str
    case: str
    given: str
    target: str


@dataclass(frozen=True)
class Choice:
    """A prediction that is shown, and why: worst, median, best, random, or the only one."""

    why: str
    key: Key
    psnr: float


def keep_cuts(folder: Path, key: Key, prediction: Float[Tensor, "x y z"], truth: Truth) -> None:
    """Save three cuts of a pair, where the lesion (or the brain) is largest, as bytes."""
    region = truth.lesion if truth.lesion is not None and bool(truth.lesion.any()) else truth.brain
    others = ((1, 2), (0, 2), (0, 1))
    centre = [int(region.sum(dim=axes).argmax()) for axes in others]
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
    """For each run and direction: worst, median and best by PSNR in the brain, and two by chance.

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
            "worst" if len(ordered) > 1 else "only": ordered[0],
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
    with np.load(file) as cuts:
        arrays = dict(cuts)
    rows = [_tiles(arrays, plane) for plane in PLANES]
    width = max(tile.shape[1] for tiles in rows for tile in tiles) + GAP
    canvas = np.concatenate(
        [np.concatenate([_centred(tile, width) for tile in tiles], axis=1) for tiles in rows]
    )
    return _png(canvas, choice.key.target, [tiles[0].shape[0] + GAP for tiles in rows])


def _centred(tile: FloatArray, width: int) -> FloatArray:
    """A tile in the middle of its column, a gap below it."""
    short = width - tile.shape[1]
    return np.pad(tile, ((0, GAP), (short // 2, short - short // 2), (0, 0)))


def _tiles(arrays: dict[str, Any], plane: Plane) -> list[FloatArray]:
    """Reference, prediction and difference of one plane, RGB, top first."""
    sizes = arrays["spacing"]

    def upright(name: str) -> FloatArray:
        cut = arrays[f"{name}_{plane.name}"].astype(np.float32) / 255
        for axis, size in enumerate((sizes[plane.across], sizes[plane.up])):
            pixels = max(round(cut.shape[axis] * size * PIXELS_PER_MM), 1)
            index = (2 * np.arange(pixels) + 1) * cut.shape[axis] // (2 * pixels)
            cut = cut.take(index, axis)
        return cut.T[::-1]

    reference, prediction, lesion = map(upright, ("reference", "prediction", "lesion"))
    signed = ((prediction - reference) / DIFFERENCE).clip(-1, 1)
    white = 1 - np.abs(signed)
    tiles = [
        np.stack([reference] * 3, -1),
        np.stack([prediction] * 3, -1),
        np.stack([white + signed.clip(0), white, white + (-signed).clip(0)], -1),
    ]
    inside = lesion > 0.5
    outline = ndimage.binary_dilation(inside) & ~inside
    for tile in tiles:
        tile[outline] = (1.0, 1.0, 0.0)
    return tiles


def _png(canvas: FloatArray, target: str, heights: Sequence[int]) -> bytes:
    """The canvas with a line of titles above it, and what is left and right, as PNG."""
    from matplotlib.figure import Figure  # heavy, and only needed here

    height, width, _ = canvas.shape
    whole = height + TITLE
    figure = Figure((width / DPI, whole / DPI), dpi=DPI, facecolor="black")
    figure.figimage(canvas, 0, 0)
    titles = (f"real {target}", "prediction", "prediction - real")
    for place, title in enumerate(titles):
        middle = (place + 0.5) / len(titles)
        figure.text(
            middle,
            1 - TITLE / 2 / whole,
            title,
            color="white",
            fontsize=9,
            ha="center",
            va="center",
        )
    top = TITLE
    for plane, rows in zip(PLANES, heights, strict=True):
        for end, x, align in zip(plane.ends, (0.003, 0.33), ("left", "right"), strict=True):
            y = 1 - (top + rows / 2) / whole
            figure.text(x, y, end, color="gold", fontsize=7, ha=align, va="center")
        top += rows
    file = io.BytesIO()
    figure.savefig(file, format="png", facecolor="black")
    return file.getvalue()


def picture_name(choice: Choice) -> str:
    """A file name for a picture: run, direction, why and case."""
    key = choice.key
    parts = [key.run, key.given, key.target, choice.why, key.case.replace("/", "_")]
    return "".join(c if c.isalnum() or c in "+-._" else "_" for c in "_".join(filter(None, parts)))


def _name(key: Key) -> str:
    return sha256("\0".join(key).encode()).hexdigest()[:32] + ".npz"
