"""Parts of the report with closed forms: statistics, tests, tables, pages, offsets, leaks."""

import io
import math
from dataclasses import replace
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
import torch
from scipy.stats import wilcoxon

from voxlate.pipelines.evaluation_checks import Fingerprint, leaks, offset_between, thumbnail
from voxlate.pipelines.evaluation_comparison import compare, holm
from voxlate.pipelines.evaluation_overview import overview
from voxlate.pipelines.evaluation_pictures import Choice, Key, choose, draw, keep_cuts
from voxlate.pipelines.evaluation_row import Row, join_given
from voxlate.pipelines.evaluation_summary import summarize
from voxlate.pipelines.evaluation_truth import Truth
from voxlate.pipelines.paper_tables import TABLES, table_rows
from voxlate.pipelines.report_page import Page


def row(
    run: str, case: str, value: float, *, metric: str = "psnr", metric_set: str = "default",
    given: str = "t1", target: str = "t2", region: str = "brain", note: str = "",
) -> Row:  # fmt: skip
    answer = "translation"
    return Row(run, case, case, given, target, answer, metric_set, region, metric, value, 9, note)


def test_statistics_of_known_values() -> None:
    rows = [row("r", str(i), v) for i, v in enumerate((1.0, 2.0, 3.0, 10.0))]
    rows += [row("r", "gone", 0.0, note="missing"), row("r", "odd", math.nan, note="why")]
    (found,) = summarize(rows)
    assert (found.expected, found.cases, found.absent, found.undefined) == (6, 4, 1, 1)
    assert (found.mean, found.median, found.worst) == (4.0, 2.5, 1.0)
    assert (found.q1, found.q3) == (1.75, 4.75)
    assert found.mean_fixed == pytest.approx(16 / 5)
    assert found.low is not None
    assert found.high is not None
    assert found.low < 4 < found.high
    assert found.high - 4 > 4 - found.low  # skewed as the values are


def test_worst_is_the_largest_where_lower_is_better() -> None:
    rows = [row("r", str(i), v, metric="mae") for i, v in enumerate((1.0, 5.0))]
    assert summarize(rows)[0].worst == 5.0


def test_holm_is_the_step_down_correction() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_comparison_is_scipy_s_wilcoxon_over_patients() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(2, 12))
    rows = [
        row(name, str(i), v)
        for name, line in zip("ab", values, strict=True)
        for i, v in enumerate(line)
    ]
    (found,) = compare(rows)
    assert found.p == pytest.approx(wilcoxon(values[0], values[1]).pvalue)
    assert found.p_holm == found.p
    assert found.difference == pytest.approx((values[0] - values[1]).mean())
    differences = values[0] - values[1]
    ranks = np.argsort(np.argsort(abs(differences))) + 1
    expected = (ranks * np.sign(differences)).sum() / ranks.sum()
    assert found.effect == pytest.approx(expected)


def test_published_numbers_stand_below_ours() -> None:
    rows = [
        row("mine", c, v, metric_set="aldm", region="box", metric=m)
        for m, v in (("psnr", 24.0), ("nmse", 0.1), ("ssim", 0.8))
        for c in "ab"
    ]
    header, lines = table_rows(TABLES["aldm1"], summarize(rows))
    assert header[:4] == ["method", "t1 to t2 PSNR", "t1 to t2 NMSE", "t1 to t2 SSIM"]
    assert lines[0][:3] == ["mine", "24.00 ± 0.00", "0.100 ± 0.000"]
    assert lines[0][4] == "-"  # t2 to flair was not measured
    assert lines[1] == ["ALDM (published)", "25.82", "0.079", "0.904", "25.07", "0.098", "0.867"]
    header, lines = table_rows(TABLES["aldm2"], summarize(rows))
    assert lines[0] == ["mine", "t1", "-", "-", "24.00 / 0.100 / 0.800", "-"]
    assert lines[1] == ["ALDM (published)", "t1", "-", "-", "25.82 / 0.103 / 0.904", "-"]


def test_all_fifteen_subsets_are_rows_in_the_paper_s_order() -> None:
    order = TABLES["msg1"].modalities
    subsets = [
        [m for i, m in enumerate(order) if bits >> i & 1] for bits in range(1, 2 ** len(order))
    ]
    rows = [
        row("mine", "a", 30.0, given=join_given(s, order), target=t, metric_set="msg", metric=m)
        for s in subsets
        for t in order
        if t not in s
        for m in ("psnr", "ssim")
    ]
    header, lines = table_rows(TABLES["msg1"], summarize(rows))
    mine = [line for line in lines if line[0] == "mine"]
    assert header == ["method", "given", *order]
    assert len(mine) == 14  # with all four given nothing is missing
    assert [line[1].count("+") for line in mine] == [0] * 4 + [1] * 6 + [2] * 4
    last = next(line for line in mine if line[1] == "t1 + t1ce + t2")
    assert last[2:] == ["-", "-", "-", "30.00 / 30.000"]
    assert ["MSG-LDM (published)", "t1 + t1ce + t2", "-", "-", "-", "29.68 / 0.936"] in lines


@pytest.mark.parametrize("name", TABLES)
def test_a_table_without_values_has_no_rows(name: str) -> None:
    assert table_rows(TABLES[name], [])[1] == []


def test_page_escapes_what_it_is_given() -> None:
    page = Page("A & B")
    page.text("`<x>` & more")
    page.table(["a|b"], [["<script>alert(1)</script>"]])
    page.table(["nothing"], [])
    page.picture(b"png", "pictures/a.png", "cap <b>")
    text = page.html()
    assert "<script>" not in text
    assert "<code>&lt;x&gt;</code> &amp; more" in text
    assert 'src="data:image/png;base64,cG5n"' in text
    assert "| a\\|b |" in page.markdown()
    assert "nothing" not in page.markdown()


def test_page_lists_its_parts_and_sets_words_in_bold() -> None:
    page = Page("A")
    page.heading("First <part>")
    page.heading("Below it", 3)
    page.table(["n"], [["**all**"], ["-1.5 [2, 3]"], ["`a**b**`"]])
    page.heading("Second")
    text = page.html()
    assert '<a href="#part1">First &lt;part&gt;</a><a href="#part2">Second</a></nav>' in text
    assert '<h2 id="part2">Second</h2>' in text and "<h3>Below it</h3>" in text
    assert "<td><strong>all</strong></td>" in text and "<code>a**b**</code>" in text
    assert '<td class="number">-1.5 [2, 3]</td>' in text
    assert "<nav>" not in Page("B").html()


def test_overview_has_a_line_for_each_direction_and_says_that_patients_are_few() -> None:
    rows = [row("r", c, v) for c, v in (("a", 20.0), ("b", 22.0), ("c", 24.0))]
    rows += [row("r", c, 0.5, metric="ssim", region="lesion") for c in "abc"]
    rows += [row("r", c, 30.0, target="flair") for c in "ab"]
    rows += [row("r", "c", 5.0, target="flair", note="missing")]
    rows += [r._replace(run="", answer="matched copy", value=r.value - 1) for r in rows[:3]]
    page = Page("E")
    overview(page, summarize(rows), {"failures": []})
    lines = page.markdown().splitlines()
    assert "5 of 6 expected predictions measured; 1 missing or unusable, 0 failure(s)." in lines
    assert (
        "| run | given | target | n | PSNR, dB | over the matched copy, dB | SSIM in lesion |"
        in (lines)
    )
    t2, flair = (next(x for x in lines if f"| t1 | {t} |" in x) for t in ("t2", "flair"))
    assert t2.startswith("| r | t1 | t2 | 3 of 3 | 22.00 [2") and "| +1.00 [+1.00, +1.00] |" in t2
    assert flair == "| r | t1 | flair | 2 of 3 | 30.00 [30.00, 30.00] | - | - |"
    assert any(line.startswith("3 patients: the intervals") for line in lines)
    alone = Page("E")
    overview(alone, summarize(rows[:1]), {"failures": []})
    assert "One patient: no interval can be given" in alone.markdown()


def test_best_median_worst_and_random_are_chosen_once_each() -> None:
    rows = [row("r", name, value) for name, value in zip("abcdef", (5, 1, 4, 2, 3, 6), strict=True)]
    rows.append(row("r", "gone", 0.0, note="missing"))
    found = {choice.why: choice.key.case for choice in choose(rows)}
    assert (found["worst"], found["median"], found["best"]) == ("b", "c", "f")
    assert len({choice.key for choice in choose(rows)}) == len(choose(rows))
    assert choose(rows, seed=3) == choose(rows, seed=3)
    assert [c.why for c in choose(rows[:1])] == ["only"]


def test_picture_shows_each_plane_and_the_lesion(tmp_path: Path) -> None:
    truth = plain(smooth(0))
    lesion = torch.zeros_like(truth.brain)
    lesion[20:24, 20:24, 12:14] = True
    drawn = replace(truth, lesion=lesion)
    key = Key("r", "a/b", "t1", "t2")
    keep_cuts(tmp_path, key, truth.volume * 0.5, drawn)
    png = draw(tmp_path, Choice("only", key, 20.0))
    assert png is not None
    image = matplotlib.image.imread(io.BytesIO(png))[..., :3]
    yellow = (image == (1, 1, 0)).all(-1)
    third = image.shape[1] // 3
    assert all(yellow[:, i * third : (i + 1) * third].any() for i in range(3))
    blue = image[:, 2 * third :, 2] - image[:, 2 * third :, 0]
    assert blue.mean() > 0.1  # too dark
    assert draw(tmp_path, Choice("only", key._replace(case="c"), 20.0)) is None


def smooth(seed: int, size: tuple[int, int, int] = (40, 42, 38)) -> torch.Tensor:
    volume = torch.rand(*size, generator=torch.Generator().manual_seed(seed))
    for axis in range(3):
        for _ in range(3):
            volume = (volume + volume.roll(1, axis)) / 2
    return volume


def plain(volume: torch.Tensor) -> Truth:
    brain = torch.zeros_like(volume, dtype=torch.bool)
    brain[8:-8, 8:-8, 8:-8] = True
    return Truth("t2", volume, brain, torch.ones_like(brain), None, np.eye(4))


@pytest.mark.parametrize("shift", [(0, 0, 0), (3, -2, 1), (-1, 0, 4)])
def test_offset_is_the_shift_and_contrast_does_not_matter(shift: tuple[int, int, int]) -> None:
    truth = plain(smooth(0))
    moved = (1 - truth.volume).roll(shift, (0, 1, 2))  # inverted
    assert offset_between(moved, truth) == pytest.approx(shift, abs=0.3)


def test_leaks_are_named() -> None:
    def scan(name: str, subject: str, seed: int, sha: str) -> Fingerprint:
        truth = plain(smooth(seed))
        return Fingerprint(name, subject, "t2", sha, thumbnail(truth.volume, truth.brain))

    references = [scan("a1", "a", 0, "x"), scan("a2", "a", 0, "y"), scan("b", "b", 1, "z")]
    assert leaks(references) == []  # two sessions of a patient may look alike
    again = scan("c", "c", 1, "w")
    assert leaks([*references, again]) == ["t2 of c looks like b in the references"]
    same_file = scan("d", "d", 2, "x")
    assert leaks([*references, same_file]) == ["t2 of d is the file of a1 in the references"]
    assert leaks(references, [scan("old", "b", 5, "q")]) == ["patient b (b) is in the training set"]
    found = leaks(references, predictions={"p": "z", "q": "i"}, inputs={"i": "the t1 of a1"})
    assert found == [
        "p is the real t2 of b, byte by byte",
        "q is the t1 of a1, byte by byte",
    ]
