"""What is measured, where, and on what scale: the honest default and each paper's own convention.

A set prepares a pair (scale, clipping, box, slices) and names its measures. Its ``definition`` is
what the report prints, so that no number stands without it. Where a paper or a challenge leaves a
choice open, the choice made here is part of the definition and says "our reading".
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from . import metrics as errors
from . import ms_ssim, ssim
from .evaluation_truth import CT, Truth
from .preparation import dfbk_slices, head_box, hounsfield, msg_slices, own_scale, volume_scale

NAMES = ("psnr", "ssim", "slice_ssim", "ms_ssim", "nmse", "rmse", "mae", "sharpness")
HU_RANGE = (-1024.0, 3000.0)


@dataclass(frozen=True)
class Pair:
    """A prepared prediction and reference, and the regions that the set is measured in.

    Attributes:
        prediction: On the set's scale.
        reference: Likewise.
        data_range: Of that scale.
        regions: Masks by name; None is the whole box.
    """

    prediction: Float[Tensor, "x y z"]
    reference: Float[Tensor, "x y z"]
    data_range: float = 1.0
    regions: Mapping[str, Tensor | None] = field(default_factory=lambda: {"box": None})
    _inside: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict, init=False, repr=False)

    def inside(self, region: str) -> tuple[Tensor, Tensor]:
        """The prediction's and the reference's voxels in a region, float64, found once."""
        if region not in self._inside:
            mask = self.regions[region]
            both = (self.prediction, self.reference)
            p, r = ((v if mask is None else v[mask]).double() for v in both)
            self._inside[region] = p, r
        return self._inside[region]

    @cached_property
    def similarity(self) -> ssim.Similarity:
        """SSIM's factors at full resolution, which several measures share."""
        return ssim.similarity(self.prediction, self.reference, data_range=self.data_range)

    @cached_property
    def ssim_map(self) -> Tensor:
        """Three-dimensional SSIM around every voxel."""
        luminance, structure = self.similarity
        return luminance * structure

    @cached_property
    def slice_map(self) -> Tensor:
        """Two-dimensional SSIM around every voxel of every axial slice."""
        return ssim.ssim_map(
            self.prediction, self.reference, data_range=self.data_range, axes=(0, 1)
        )


Function = Callable[[Pair, str], Tensor]


class Measure(NamedTuple):
    """A function of a pair and a region's name, and the regions it is taken in."""

    function: Function
    regions: tuple[str, ...]


class Value(NamedTuple):
    """One number: where, what, how much, over how many voxels, and why it is missing if it is."""

    region: str
    metric: str
    value: float
    voxels: int
    note: str = ""


@dataclass(frozen=True)
class MetricSet:
    """A way to measure.

    Attributes:
        definition: In words, for the report.
        prepare: From a prediction in the reference's unit and the truth to a pair.
        measures: By metric name.
    """

    definition: str
    prepare: Callable[[Tensor, Truth], Pair]
    measures: Mapping[str, Measure]

    def measure(
        self,
        prediction: Float[Tensor, "x y z"],
        truth: Truth,
        *,
        metrics: Sequence[str] | None = None,
        regions: Sequence[str] | None = None,
    ) -> list[Value]:
        """All measures of a prediction in the reference's unit, on its grid.

        A measure that cannot be taken (a volume too small for its scales, a constant box) is
        not-a-number and says why. A region that the case has not (no lesion) is left out.

        Args:
            prediction: A finite volume.
            truth: On the same grid.
            metrics: These alone; by default all of the set.
            regions: In these alone; by default in all of the set.

        Raises:
            ValueError: The shapes differ.
        """
        if prediction.shape != truth.volume.shape:
            raise ValueError(
                f"prediction {tuple(prediction.shape)} and reference "
                f"{tuple(truth.volume.shape)} differ"
            )
        try:
            pair = self.prepare(prediction, truth)
        except ValueError as error:
            return [
                Value(own[0], name, float("nan"), 0, str(error))
                for name, (_, own) in self.measures.items()
            ]
        found = []
        for name, (function, own) in self.measures.items():
            if metrics is not None and name not in metrics:
                continue
            for region in own:
                if region not in pair.regions or (regions is not None and region not in regions):
                    continue
                mask = pair.regions[region]
                voxels = pair.reference.numel() if mask is None else int(mask.sum())
                try:
                    found.append(Value(region, name, float(function(pair, region)), voxels))
                except ValueError as error:
                    found.append(Value(region, name, float("nan"), voxels, str(error)))
        return found


def mean_in(every: Tensor, mask: Tensor | None, axes: Sequence[int] | None = None) -> Tensor:
    """Mean of an SSIM map in the mask; without one, over the windows wholly inside the box."""
    if mask is not None:
        return every[ssim.checked_mask(mask, every)].double().mean()
    return ssim.whole_windows(every, ssim.GAUSSIAN, axes).double().mean()


def _multi_scale(pair: Pair, region: str) -> Tensor:
    return ms_ssim.ms_ssim(
        pair.prediction,
        pair.reference,
        mask=pair.regions[region],
        data_range=pair.data_range,
        finest=pair.similarity,
    )


FUNCTIONS: dict[str, Function] = {
    "psnr": lambda pair, region: errors.psnr(*pair.inside(region), data_range=pair.data_range),
    "ssim": lambda pair, region: mean_in(pair.ssim_map, pair.regions[region]),
    "slice_ssim": lambda pair, region: mean_in(pair.slice_map, pair.regions[region], (0, 1)),
    "ms_ssim": _multi_scale,
    "nmse": lambda pair, region: errors.nmse(*pair.inside(region)),
    "mse": lambda pair, region: errors.mse(*pair.inside(region)),
    "rmse": lambda pair, region: errors.rmse(*pair.inside(region)),
    "mae": lambda pair, region: errors.mae(*pair.inside(region)),
    "sharpness": lambda pair, region: errors.sharpness_ratio(
        pair.prediction, pair.reference, mask=pair.regions[region]
    ),
}


def default_pair(prediction: Tensor, truth: Truth) -> Pair:
    """MR on the reference's percentiles in the brain, unclipped; CT in HU from -1024, clipped."""
    if truth.target == CT:
        return _hounsfield_pair(prediction, truth)
    return Pair(truth.to_scale(prediction), truth.scaled, 1.0, truth.regions)


def _hounsfield_pair(prediction: Tensor, truth: Truth) -> Pair:
    low, high = HU_RANGE
    p, r = (hounsfield(volume, HU_RANGE) for volume in (prediction, truth.volume))
    return Pair(p, r, high - low, truth.regions)


def _clipped_pair(prediction: Tensor, truth: Truth) -> Pair:
    pair = default_pair(prediction, truth)
    high = pair.data_range
    return Pair(pair.prediction.clamp(0, high), pair.reference.clamp(0, high), high, truth.regions)


def boxed_pair(size: tuple[int, int, int]) -> Callable[[Tensor, Truth], Pair]:
    """A box around the head on [0, 1], as ALDM's code prepares its volumes."""

    def prepare(prediction: Tensor, truth: Truth) -> Pair:
        boxed = head_box(torch.stack([prediction, truth.volume]), truth.head, size)
        return Pair(*volume_scale(*boxed))

    return prepare


def _dfbk_pair(size: int, slices: int) -> Callable[[Tensor, Truth], Pair]:
    def prepare(prediction: Tensor, truth: Truth) -> Pair:
        return Pair(*dfbk_slices(*volume_scale(prediction, truth.volume), size, slices))

    return prepare


def _msg_pair(prediction: Tensor, truth: Truth) -> Pair:
    return Pair(*msg_slices(prediction, truth.volume, truth.head))


def _brasyn_pair(prediction: Tensor, truth: Truth) -> Pair:
    return Pair(own_scale(prediction), own_scale(truth.volume), 1.0, truth.regions)


def _official_ssim(pair: Pair, region: str) -> Tensor:
    """BraSyn's own: both volumes zeroed outside the region, SSIM's map averaged over all the box.

    The data range is the larger of the two volumes' own, the window mirrored without its edge, as
    torchmetrics has it by default.
    """
    mask = pair.regions[region]
    assert mask is not None
    p, r = pair.prediction * mask, pair.reference * mask
    data_range = float(max(p.max() - p.min(), r.max() - r.min())) or 1.0
    window = ssim.gaussian_window(mirror_edge=False)
    return ssim.ssim_map(p, r, data_range=data_range, window=window).double().mean()


def _synthrad_pair(prediction: Tensor, truth: Truth) -> Pair:
    """Outside the mask both are air; what is clipped to the range, each measure clips."""
    p, r = (v.masked_fill(~truth.brain, HU_RANGE[0]) for v in (prediction, truth.volume))
    return Pair(p, r, HU_RANGE[1] - HU_RANGE[0], {"brain": truth.brain})


def _from_air(pair: Pair) -> tuple[Tensor, Tensor]:
    return hounsfield(pair.prediction, HU_RANGE), hounsfield(pair.reference, HU_RANGE)


def _synthrad_psnr(pair: Pair, region: str) -> Tensor:
    p, r = (hounsfield(v, HU_RANGE) for v in pair.inside(region))
    return errors.psnr(p, r, data_range=pair.data_range)


def _synthrad_ssim(pair: Pair, region: str) -> Tensor:
    """SSIM of 2023: uniform windows of 7, sample covariance, mean of the map in the mask."""
    mask = pair.regions[region]
    assert mask is not None
    window = ssim.uniform_window(7)
    every = ssim.ssim_map(*_from_air(pair), data_range=pair.data_range, window=window)
    inside = ssim.whole_windows(mask, window)
    return ssim.whole_windows(every, window)[inside].double().mean()


def _synthrad_ms_ssim(pair: Pair, region: str) -> Tensor:
    mask = pair.regions[region]
    assert mask is not None
    return ms_ssim.synthrad_ms_ssim(*_from_air(pair), mask=mask, data_range=pair.data_range)


def _in(regions: tuple[str, ...], *names: str) -> dict[str, Measure]:
    return {name: Measure(FUNCTIONS[name], regions) for name in names}


SLICE_MEASURES = {
    "psnr": Measure(lambda pair, _: errors.slice_psnr(pair.prediction, pair.reference), ("box",)),
    "ssim": Measure(FUNCTIONS["slice_ssim"], ("box",)),
    "rmse": Measure(lambda pair, _: errors.slice_rmse(pair.prediction, pair.reference), ("box",)),
}
EVERYWHERE = ("brain", "lesion", "healthy", "box")
_GAUSSIAN = "Gaussian window of 11, sigma 1.5, K1 0.01, K2 0.03, population covariance"
_DFBK = (
    "axial slices of the volume, centre-cropped or padded to {size} x {size}; each volume on "
    "[0, 1] by the reference's 0.5th and 99.5th percentile over the whole volume, clipped; PSNR, "
    f"two-dimensional SSIM ({_GAUSSIAN}) and RMSE of each slice, mean over slices; data range 1. "
    "The paper states neither the intensities nor the resize: our reading, nothing is resized."
)

METRIC_SETS = {
    "default": MetricSet(
        "MR: one linear map for both volumes, which takes the reference's 0.5th and 99.5th "
        "percentile in the brain to 0 and 1; nothing clipped; data range 1. CT: HU clipped to "
        "[-1024, 3000], counted from -1024, data range 4024. PSNR = 10 log10(L^2 / MSE), at most "
        "100 dB; NMSE = sum d^2 / sum r^2; RMSE, MAE (CT: in HU); sharpness = gradient energy over "
        f"the reference's. SSIM: three-dimensional, {_GAUSSIAN}; map of the unmasked pair, "
        "averaged in the region (box: over windows wholly inside). Slice SSIM: the same in axial "
        "slices. MS-SSIM: 5 scales, Wang's weights. Regions: brain (the mask, or the reference's "
        "foreground), lesion (drawn by an expert), healthy (brain at least 5 mm away from the "
        "lesion), box (all voxels: for comparison with old papers alone).",
        default_pair,
        {
            **_in(EVERYWHERE, "psnr", "ssim"),
            **_in(("brain", "box"), "slice_ssim"),
            **_in(("brain",), "ms_ssim"),
            **_in(EVERYWHERE, "nmse", "rmse", "mae"),
            **_in(("brain", "lesion"), "sharpness"),
        },
    ),
    "clipped": MetricSet(
        "As `default`, both volumes clipped to [0, 1] (CT: they are already).",
        _clipped_pair,
        _in(("brain",), "psnr", "ssim"),
    ),
    "aldm": MetricSet(
        "As ALDM (BraTS): box of 192 x 192 x 144 around the head's centre, background included; "
        "both volumes on [0, 1] by the reference's 0.5th and 99.5th percentile over that box, "
        f"clipped; data range 1; NMSE = sum d^2 / sum r^2; three-dimensional SSIM, {_GAUSSIAN}, "
        "over windows wholly inside. The paper states no definition: deduced from its numbers.",
        boxed_pair((192, 192, 144)),
        _in(("box",), "psnr", "nmse", "ssim"),
    ),
    "aldm_ixi": MetricSet(
        "As `aldm`, in ALDM's box for IXI, 256 x 160 x 224 voxels (axes as the paper lists them; "
        "here right, anterior, superior).",
        boxed_pair((256, 160, 224)),
        _in(("box",), "psnr", "nmse", "ssim"),
    ),
    "dfbk": MetricSet(
        "As DFBK (BraTS 2023): 32 middle " + _DFBK.format(size=192),
        _dfbk_pair(192, 32),
        SLICE_MEASURES,
    ),
    "dfbk_isles": MetricSet(
        "As DFBK (ISLES 2015): 64 middle " + _DFBK.format(size=224),
        _dfbk_pair(224, 64),
        SLICE_MEASURES,
    ),
    "dfbk_synthrad": MetricSet(
        "As DFBK (SynthRAD 2023): 64 middle " + _DFBK.format(size=192),
        _dfbk_pair(192, 64),
        SLICE_MEASURES,
    ),
    "msg": MetricSet(
        "As MSG-LDM: box of 192 x 192 x 155 around the head's centre, its axial slices 18 to 137; "
        "both volumes on [0, 1] by the reference's smallest and largest value, clipped; PSNR and "
        f"two-dimensional SSIM ({_GAUSSIAN}) of each slice, mean over slices with head in them; "
        "data range 1. The paper prints SSIM in per cent. Our reading of its data code.",
        _msg_pair,
        {name: SLICE_MEASURES[name] for name in ("psnr", "ssim")},
    ),
    "brasyn": MetricSet(
        "As BraSyn: each volume by its own 0.5th and 99.5th percentile over all voxels (at least "
        "0), clipped to [0, 1]. `ssim_official` is the challenge's: volumes zeroed outside the "
        "region, torchmetrics' SSIM, mean over the whole box, so that nearly everything it "
        "averages is empty: A MISSING TUMOUR GETS ABOUT 1. `ssim` is the honest one: map of the "
        "unmasked pair, averaged in the region. Regions: lesion, and outside (all else).",
        _brasyn_pair,
        {
            **_in(("lesion", "outside"), "ssim"),
            "ssim_official": Measure(_official_ssim, ("lesion", "outside")),
            **_in(("lesion", "healthy"), "mse"),
        },
    ),
    "synthrad2023": MetricSet(
        "As SynthRAD 2023: HU, outside the mask -1024; MAE in the mask, unclipped; PSNR with both "
        "clipped to [-1024, 3000], range 4024; SSIM of the clipped pair, uniform windows of 7, "
        "sample covariance, map averaged in the mask (not within 3 voxels of the box's border).",
        _synthrad_pair,
        {
            **_in(("brain",), "mae"),
            "psnr": Measure(_synthrad_psnr, ("brain",)),
            "ssim": Measure(_synthrad_ssim, ("brain",)),
        },
    ),
    "synthrad2025": MetricSet(
        "As SynthRAD 2025: MAE and PSNR as `synthrad2023`; MS-SSIM in the mask, 5 scales, uniform "
        "windows of 7, luminance at every scale, axes padded to 97 voxels.",
        _synthrad_pair,
        {
            **_in(("brain",), "mae"),
            "psnr": Measure(_synthrad_psnr, ("brain",)),
            "ms_ssim": Measure(_synthrad_ms_ssim, ("brain",)),
        },
    ),
}
CT_ONLY = ("synthrad2023", "synthrad2025")
