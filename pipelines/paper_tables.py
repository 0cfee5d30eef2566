"""The papers' tables by name, with this evaluation's values beside the published ones.

Published numbers are only those recorded when the papers were studied; a dash is not a zero. They
come from the papers' own data, splits and (mostly unstated) definitions, so beside values of
another data set they orient, no more.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from .evaluation_row import TRANSLATION, split_given
from .evaluation_summary import Statistic

Figures = Mapping[str, float]


class Direction(NamedTuple):
    """A row of a table: what is made from what, where a row is that."""

    given: str
    target: str
    label: str = ""


@dataclass(frozen=True)
class PaperTable:
    """A table of a paper.

    Attributes:
        title: Paper, number, what it shows.
        metric_set: Whose values fill it.
        metrics: Columns.
        directions: Rows; of a ``subsets`` table the targets, which become columns.
        published: By (row, direction): the row is the paper's name for a method, the direction
            ``given>target``.
        kind: ``methods`` (runs and published methods), ``matrix`` (source by target) or
            ``subsets`` (given contrasts by target).
        modalities: Of a matrix or subset table, in order.
        remark: What the reader must know.
    """

    title: str
    metric_set: str
    metrics: tuple[str, ...]
    directions: tuple[Direction, ...] = ()
    published: Mapping[tuple[str, str], Figures] = field(default_factory=dict)
    kind: str = "methods"
    modalities: tuple[str, ...] = ()
    remark: str = ""


def _figures(names: Sequence[str], *values: float | None) -> Figures:
    return {n: v for n, v in zip(names, values, strict=True) if v is not None}


_ALDM = ("psnr", "nmse", "ssim")
_DFBK = ("psnr", "ssim", "rmse")
_MSG = ("psnr", "ssim")
BRATS = ("t1", "t1ce", "t2", "flair")

TABLES = {
    "aldm1": PaperTable(
        "ALDM, Table 1: one to one (BraTS 2021)",
        "aldm",
        _ALDM,
        (Direction("t1", "t2"), Direction("t2", "flair")),
        {
            ("ALDM", "t1>t2"): _figures(_ALDM, 25.818, 0.079, 0.904),
            ("ALDM", "t2>flair"): _figures(_ALDM, 25.074, 0.098, 0.867),
        },
    ),
    "aldm1_ixi": PaperTable(
        "ALDM, Table 1: one to one (IXI)",
        "aldm_ixi",
        _ALDM,
        (Direction("t1", "pd"),),
        {("ALDM", "t1>pd"): _figures(_ALDM, 27.729, 0.068, 0.921)},
    ),
    "aldm2": PaperTable(
        "ALDM, Table 2: one to many, source x target (BraTS 2021)",
        "aldm",
        _ALDM,
        published={("ALDM", "t1>t2"): _figures(_ALDM, 25.818, 0.103, 0.904)},
        kind="matrix",
        modalities=BRATS,
        remark="The paper prints NMSE 0.103 here and 0.079 in its Table 1 for one model and the "
        "same PSNR and SSIM.",
    ),
    "aldm3": PaperTable(
        "ALDM, Table 3: ablation (BraTS 2021, T1 to T2)",
        "aldm",
        _ALDM,
        (Direction("t1", "t2"),),
        {
            ("ALDM", "t1>t2"): _figures(_ALDM, 25.818, None, 0.904),
            ("MS-SPADE only", "t1>t2"): {"psnr": 25.037},
            ("without MS-SPADE", "t1>t2"): {"psnr": 25.364},
            ("KL instead of VQ", "t1>t2"): {"psnr": 25.245},
        },
    ),
    "aldmD": PaperTable(
        "ALDM, Table D: one to many, source x target (IXI)",
        "aldm_ixi",
        _ALDM,
        published={},
        kind="matrix",
        modalities=("t1", "t2", "pd"),
    ),
    "dfbk1": PaperTable(
        "DFBK, Table 1: one to one (BraTS 2023)",
        "dfbk",
        _DFBK,
        (Direction("t1", "t2"), Direction("t1", "flair")),
        {
            ("DFBK", "t1>t2"): _figures(_DFBK, 23.61, 0.846, 0.074),
            ("ResShift", "t1>t2"): _figures(_DFBK, 23.47, 0.843, 0.075),
        },
    ),
    "dfbk1_isles": PaperTable(
        "DFBK, Table 1: one to one (ISLES 2015)",
        "dfbk_isles",
        _DFBK,
        (Direction("flair", "dwi"), Direction("flair", "t1")),
        {
            ("DFBK", "flair>dwi"): {"rmse": 0.054},
            ("DFBK", "flair>t1"): _figures(_DFBK, 25.42, 0.879, 0.060),
            ("ResShift", "flair>t1"): _figures(_DFBK, 25.15, 0.876, 0.062),
        },
    ),
    "dfbk2": PaperTable(
        "DFBK, Table 2: MR and CT (SynthRAD 2023)",
        "dfbk_synthrad",
        _DFBK,
        (Direction("t1", "ct"), Direction("ct", "t1")),
        {("DFBK", "t1>ct"): _figures(_DFBK, 27.51, 0.897, 0.044)},
    ),
    **{
        f"dfbk{number}": PaperTable(
            f"DFBK, Table {number}: ablation of {what} (ISLES 2015, FLAIR to DWI)",
            "dfbk_isles",
            _DFBK,
            (Direction("flair", "dwi"),),
            {("DFBK", "flair>dwi"): {"rmse": 0.055}} if number == 3 else {},
            remark="Table 1 of the paper prints 0.054 for the same model." if number == 3 else "",
        )
        for number, what in (
            (3, "its parts"),
            (4, "the frequency balance"),
            (5, "the knowledge guidance"),
        )
    },
    "msg1": PaperTable(
        "MSG-LDM, Table 1: any subset of contrasts (BraTS 2020)",
        "msg",
        _MSG,
        published={
            ("MSG-LDM", "t1+t1ce+t2>flair"): _figures(_MSG, 29.68, 0.9362),
            ("MSG-LDM", "t1ce+t2+flair>t1"): _figures(_MSG, 30.26, 0.9437),
        },
        kind="subsets",
        modalities=BRATS,
        remark="The paper prints SSIM in per cent; its Dice for FLAIR from three is 0.876.",
    ),
    "msg2": PaperTable(
        "MSG-LDM, Table 2: any subset of contrasts (WMH 2017)",
        "msg",
        _MSG,
        published={("MSG-LDM", "t1>flair"): _figures(_MSG, 28.38, 0.9555)},
        kind="subsets",
        modalities=("t1", "flair"),
        remark="The paper prints SSIM in per cent.",
    ),
    "msg3": PaperTable(
        "MSG-LDM, Table 3: ablation (BraTS 2020, FLAIR from three)",
        "msg",
        _MSG,
        (Direction("t1+t1ce+t2", "flair"),),
        {("MSG-LDM", "t1+t1ce+t2>flair"): _figures(_MSG, 29.68, 0.9362)},
    ),
}
DECIMALS = {"psnr": 2}


def table_rows(
    table: PaperTable, statistics: Iterable[Statistic]
) -> tuple[list[str], list[list[str]]]:
    """Header and rows; no rows where the evaluation has none of the table's cells.

    Args:
        table: One of ``TABLES``.
        statistics: Of the evaluation; those of translations in the table's set count.
    """
    found: dict[tuple[str, str], dict[str, Statistic]] = {}
    for s in statistics:
        if s.metric_set == table.metric_set and s.answer == TRANSLATION and s.mean is not None:
            found.setdefault((s.run, f"{s.given}>{s.target}"), {})[s.metric] = s
    directions = {direction for _, direction in found}
    if table.kind == "subsets":
        targets = [m for m in table.modalities if any(d.endswith(f">{m}") for d in directions)]
        rows = _grid(table, found, _subsets(directions, table.modalities), targets)
        return ["method", "given", *targets], rows
    if table.kind == "matrix":
        rows = _grid(table, found, list(table.modalities), list(table.modalities))
        return ["method", "from", *table.modalities], rows
    return _methods(table, found)


def _methods(
    table: PaperTable, found: Mapping[tuple[str, str], Mapping[str, Statistic]]
) -> tuple[list[str], list[list[str]]]:
    wanted = [f"{d.given}>{d.target}" for d in table.directions]
    header = ["method", *(f"{_arrow(d)} {m.upper()}" for d in wanted for m in table.metrics)]
    runs = list(dict.fromkeys(run for run, direction in found if direction in wanted))
    if not runs:
        return header, []
    rows = [
        [run, *(_value(found.get((run, d), {}).get(m), m) for d in wanted for m in table.metrics)]
        for run in runs
    ]
    for method in dict.fromkeys(name for name, _ in table.published):
        known = [table.published.get((method, d), {}) for d in wanted]
        cells = [_published(figures.get(m), m) for figures in known for m in table.metrics]
        rows.append([f"{method} (published)", *cells])
    return header, rows


def _grid(
    table: PaperTable,
    found: Mapping[tuple[str, str], Mapping[str, Statistic]],
    givens: Sequence[str],
    targets: Sequence[str],
) -> list[list[str]]:
    """Rows of given contrasts, columns of targets, the metrics of a cell joined by slashes."""
    wanted = {f"{given}>{target}" for given in givens for target in targets}
    runs = list(dict.fromkeys(run for run, direction in found if direction in wanted))
    rows = []
    for run in runs:
        for given in givens:
            mine = [found.get((run, f"{given}>{target}"), {}) for target in targets]
            if any(mine):
                cells = [
                    " / ".join(_value(cell.get(m), m, short=True) for m in table.metrics)
                    if cell
                    else "-"
                    for cell in mine
                ]
                rows.append([run, _name(given), *cells])
    for method in dict.fromkeys(name for name, _ in table.published) if runs else ():
        for given in givens:
            known = [table.published.get((method, f"{given}>{target}")) for target in targets]
            if any(known):
                cells = [
                    " / ".join(_published(k.get(m), m) for m in table.metrics) if k else "-"
                    for k in known
                ]
                rows.append([f"{method} (published)", _name(given), *cells])
    return rows


def _subsets(directions: Iterable[str], modalities: Sequence[str]) -> list[str]:
    """The given contrasts that occur, fewest first, then in the order of the modalities."""
    givens = {direction.partition(">")[0] for direction in directions}
    order = {name: place for place, name in enumerate(modalities)}
    known = [g for g in givens if g and all(part in order for part in split_given(g))]
    return sorted(known, key=lambda g: (g.count("+"), [order[part] for part in split_given(g)]))


def _arrow(direction: str) -> str:
    given, _, target = direction.partition(">")
    return f"{_name(given)} to {target}"


def _name(given: str) -> str:
    return given.replace("+", " + ")


def _value(statistic: Statistic | None, metric: str, *, short: bool = False) -> str:
    if statistic is None or statistic.mean is None:
        return "-"
    places = DECIMALS.get(metric, 3)
    text = f"{statistic.mean:.{places}f}"
    if statistic.sd is not None and not short:
        text += f" ± {statistic.sd:.{places}f}"
    return text


def _published(value: float | None, metric: str) -> str:
    return "-" if value is None else f"{value:.{DECIMALS.get(metric, 3)}f}"
