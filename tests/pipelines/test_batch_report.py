"""The report of an output folder: order, escaping, refusals; and in a real browser."""

import base64
import csv
import gzip
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from typer.testing import CliRunner

from voxlate.data_prep import NoInputError, OutputError, read_scan, write_scan
from voxlate.data_prep.rigid_transform import RigidTransform, resample
from voxlate.pipelines import batch_report
from voxlate.pipelines.batch_report import make_report
from voxlate.pipelines.batch_report_cases import ReportCase, find_report_cases
from voxlate.pipelines.batch_report_table import cases_csv
from voxlate.pipelines.cli import app
from voxlate.pipelines.manifest import SCHEMA
from voxlate.pipelines.outputs import file_entry
from voxlate.pipelines.qc_picture import percentile_window
from voxlate.pipelines.viewer_volumes import packed

MARKUP = "<script>alert(1)<"  # no slash: a name may have none
WICKED = f"{MARKUP}&\"'#?%41"


def finish(
    output: Path, place: str, head_file: Path, *, warnings: tuple[str, ...] = (), edges: float = 0.9
) -> Path:
    """A finished case, as a batch leaves it; its record."""
    scan = read_scan(head_file)
    folder = output / place
    folder.mkdir(parents=True)
    window = ((scan.data - scan.data.min()) / np.ptp(scan.data)).astype(np.float32)
    made = write_scan(folder / "t1_t2.nii.gz", 1 - window, scan)
    (folder / "t1_qc.png").write_bytes(PNG)
    record = {
        "Schema": SCHEMA,
        "Input": {"File": "t1.nii.gz", "SHA256": scan.sha256, "Modality": "t1"},
        "Outputs": {"t2": file_entry(made)},
        "Picture": file_entry(folder / "t1_qc.png"),
        "Intensity": {"t2": {"Scale": "unit", "Slope": 1.0, "Intercept": 0.0}},
        "Options": {"CaseID": f"{place}/t1"},
        "Scores": {"t2": {"EdgeAgreement": edges, "LargestStep": None}},
        "Warnings": list(warnings),
    }
    (folder / "t1.json").write_text(json.dumps(record))
    return folder / "t1.json"


PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


@pytest.fixture
def output(tmp_path: Path, head_file: Path) -> Path:
    folder = tmp_path / "out"
    finish(folder, "good", head_file)
    finish(folder, "weak", head_file, edges=0.4)
    finish(folder, WICKED, head_file, warnings=(f"W_COARSE: {MARKUP}/script>",))
    (finish(folder, "hurt", head_file).parent / "t1_t2.nii.gz").write_bytes(b"short")
    (folder / "failed.csv").write_text(
        f"id,t1,code,file,what,todo\nbad,/x/t1.nii,E_TRUNCATED,/x/t1.nii,{MARKUP}/script>,redo\n"
    )
    return folder


class Page(HTMLParser):
    """What a page has of elements and what they point to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [v or "" for k, v in attributes if k in ("src", "href", "action")]


def pages(output: Path) -> list[Path]:
    return [output / "report" / "index.html", *(output / "report" / "cases").glob("*.html")]


def test_worst_comes_first(output: Path) -> None:
    assert [(case.id, case.status) for case in find_report_cases(output)] == [
        ("bad", "failed"), ("hurt/t1", "damaged"), (f"{WICKED}/t1", "doubtful"),
        ("weak/t1", "finished"), ("good/t1", "finished"),
    ]  # fmt: skip


def test_pages_hold_no_markup_of_a_case_and_no_address_of_the_web(output: Path) -> None:
    make_report(output)
    for path in pages(output):
        text = path.read_text()
        assert "<script>alert" not in text and "://" not in text
        assert "Not a medical device" in text
        scripts = [link for link in Page(text).links if link.endswith(".js")]
        assert len(scripts) == Page(text).tags.count("script")
    assert "&lt;script&gt;alert(1)" in pages(output)[0].read_text()


def test_every_link_leads_to_a_file(output: Path) -> None:
    from urllib.parse import unquote

    make_report(output)
    for path in pages(output):
        for link in Page(path.read_text()).links:
            assert link == "data:," or (path.parent / unquote(link)).is_file(), link


def test_reasons_of_failures_and_damage_are_told(output: Path) -> None:
    text = make_report(output).read_text()
    assert "E_TRUNCATED /x/t1.nii: " in text and " - redo" in text
    assert "t1_t2.nii.gz has 5 bytes" in text


def test_shown_volume_keeps_intensities_and_places() -> None:
    rng = np.random.default_rng(0)
    volume = rng.random((9, 8, 7), dtype=np.float32)
    affine = np.array([[0, -1.0, 0, 5], [1, 0, 0, -9], [0, 0, 1.5, 2], [0, 0, 0, 1]])
    for spacing, blocks in ((1.0, (1, 1, 1)), (3.0, (3, 3, 2))):
        data = gzip.decompress(base64.b64decode(packed(volume, affine, spacing)["nifti"]))
        image = nib.Nifti1Image.from_bytes(data)
        found = np.asarray(image.dataobj)
        assert found.dtype == np.uint8
        x, y, z = blocks
        mean = volume[x : 2 * x, y : 2 * y, z : 2 * z].mean()
        assert found[1, 1, 1] / 255 == pytest.approx(mean, abs=0.5 / 255 + 1e-6)
        middle = [b + (b - 1) / 2 for b in blocks]
        np.testing.assert_allclose(image.affine @ [1, 1, 1, 1], affine @ [*middle, 1], atol=1e-6)


def test_unchanged_cases_are_kept_and_vanished_ones_forgotten(output: Path) -> None:
    make_report(output)
    cases = output / "report" / "cases"
    before = {path.name: path.stat().st_mtime_ns for path in cases.iterdir()}
    assert len([name for name in before if name.endswith(".js")]) == 3
    shutil.rmtree(output / "weak")
    make_report(output)
    after = {path.name: path.stat().st_mtime_ns for path in cases.iterdir()}
    assert {name: before[name] for name in after} == after
    assert {re.sub("_json-.*", "", name) for name in before.keys() - after.keys()} == {"weak_t1"}


def test_scan_that_changed_is_not_shown(
    output: Path, head_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = {"good/t1.json": {"t1": str(head_file)}}
    monkeypatch.setattr(batch_report, "_source_scans", lambda _: sources)
    make_report(output)
    (script,) = (output / "report" / "cases").glob("good*.js")
    assert "t1 (scan)" in script.read_text()
    head_file.write_bytes(gzip.compress(gzip.decompress(head_file.read_bytes()), 1))
    script.unlink()
    make_report(output)
    assert "t1 (scan)" not in script.read_text() and "its file is another" in script.read_text()


def test_table_has_a_row_for_each_case_with_its_scores_and_no_formula(output: Path) -> None:
    record = json.loads((output / "good" / "t1.json").read_text())
    record["Seconds"] = {"read": 0.5, "translate": 2.25}
    (output / "good" / "t1.json").write_text(json.dumps(record))
    index = make_report(output)
    with (index.parent / "cases.csv").open(newline="") as file:
        rows = {row["id"]: row for row in csv.DictReader(file)}
    assert list(rows) == ["bad", "hurt/t1", f"{WICKED}/t1", "weak/t1", "good/t1"]
    assert rows["bad"]["code"] == "E_TRUNCATED" and rows["bad"]["status"] == "failed"
    assert rows["hurt/t1"]["what"] == "t1_t2.nii.gz has 5 bytes, its record says " + str(
        json.loads((output / "hurt" / "t1.json").read_text())["Outputs"]["t2"]["Bytes"]
    )
    good = rows["good/t1"]
    assert good["t2 EdgeAgreement"] == "0.9" and good["t2 LargestStep"] == ""
    assert good["of_limit"] == "0.667" and good["inputs"] == "t1" and good["targets"] == "t2"
    assert good["seconds"] == "2.750" and good["translate_seconds"] == "2.25"
    assert rows["weak/t1"]["seconds"] == "" and (index.parent / good["page"]).is_file()
    failed = ReportCase("=cmd()", "=cmd()", "failed", failure={"code": "E_X", "what": "+1"})
    assert "\n'=cmd(),failed,E_X,'+1," in cases_csv([failed]).decode()


def test_deviation_and_further_scans_are_shown_where_they_lie(
    output: Path, head_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan = read_scan(head_file)
    folder = output / "good"
    level = np.abs(scan.data) / np.abs(scan.data).max() / 10
    spread = write_scan(folder / "t1_t2_sd.nii.gz", level, scan)
    flair = write_scan(tmp_path / "flair.nii.gz", scan.data[::-1], scan)
    record = json.loads((folder / "t1.json").read_text())
    record["Deviations"] = {"t2": file_entry(spread)}
    move = np.eye(4)
    move[0, 3] = 4
    record["OtherInputs"] = [
        {
            "File": "flair.nii.gz",
            "SHA256": read_scan(flair).sha256,
            "Modality": "flair",
            "Registered": {"MatrixRASMM": move.tolist()},
        }
    ]
    (folder / "t1.json").write_text(json.dumps(record))
    sources = {"good/t1.json": {"t1": str(head_file), "flair": str(flair)}}
    monkeypatch.setattr(batch_report, "_source_scans", lambda _: sources)
    make_report(output)
    (script,) = (output / "report" / "cases").glob("good*.js")
    volumes = shown(script)
    *others, deviation = volumes
    assert others == ["t1 (scan)", "flair (scan)", "t2 (synthetic)"]
    white = float(np.percentile(level[level > 0], 99.5))
    assert deviation == f"t2 SD (white: {white:.3f} of the window)"
    found = np.asarray(volumes[deviation].dataobj)
    np.testing.assert_allclose(found, (level / white).clip(0, 1) * 255, atol=0.51)
    laid = np.asarray(volumes["flair (scan)"].dataobj)
    home = RigidTransform(move)
    own = resample(read_scan(flair), scan.shape, scan.affine, home, background=0.0)
    np.testing.assert_allclose(laid, percentile_window(own.data) * 255, atol=0.51)
    still = percentile_window(read_scan(flair).data) * 255
    assert np.abs(laid - still).mean() > 1  # it was moved


def shown(script: Path) -> dict[str, nib.Nifti1Image]:
    """The volumes in a page's script."""
    line = next(t for t in script.read_text().splitlines() if "voxlateVolumes" in t)
    entries = json.loads(line.partition(" = ")[2].rstrip(";"))
    return {
        e["name"]: nib.Nifti1Image.from_bytes(gzip.decompress(base64.b64decode(e["nifti"])))
        for e in entries
    }


def test_records_that_are_not_whole_are_told_as_damaged(output: Path) -> None:
    (output / "odd.json").write_text(json.dumps({"Schema": SCHEMA, "Warnings": 3}))
    text = make_report(output).read_text()
    assert "odd.json is no whole record" in text


def test_folders_without_cases_are_refused_in_one_line(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "absent"):
        result = CliRunner().invoke(app, ["report", str(folder)])
        assert result.exit_code == NoInputError.exit_code
        assert len(result.stderr.splitlines()) == 1 and str(folder) in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_other_peoples_pages_and_links_elsewhere_are_left_alone(
    output: Path, tmp_path: Path
) -> None:
    (output / "report").mkdir()
    (output / "report" / "index.html").write_text("mine")
    with pytest.raises(OutputError, match="no report of voxlate"):
        make_report(output)
    shutil.rmtree(output / "report")
    (tmp_path / "elsewhere").mkdir()
    (output / "report").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OutputError, match="link to another place"):
        make_report(output)
    assert list((tmp_path / "elsewhere").iterdir()) == []


@pytest.mark.slow
def test_report_works_in_a_browser(
    output: Path, head_file: Path, browser: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = {f"{WICKED}/t1.json": {"t1": str(head_file)}}
    monkeypatch.setattr(batch_report, "_source_scans", lambda _: sources)
    index = make_report(output)
    page = browser.new_context(offline=True).new_page()
    page.set_default_timeout(120_000)
    told: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: told.append(message.text) if message.type == "error" else 0)
    page.on("pageerror", lambda error: told.append(str(error)))
    page.on("dialog", lambda dialog: told.append("a case's markup ran"))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(index.as_uri())
    rows = page.locator("tbody tr:visible")
    assert rows.count() == 5 and page.locator("#shown").text_content() == "5 of 5 cases"
    for field, value, count in (
        ("status", "failed", 1),
        ("target", "t2", 4),
        ("warning", "W_COARSE", 1),
    ):
        page.select_option(f"select[name={field}]", value)
        assert rows.count() == count, field
        page.click("button[type=reset]")
        page.wait_for_selector("tbody tr[hidden]", state="detached")
    page.fill("input[name=edges]", "0.5")
    assert rows.count() == 1 and "weak" in rows.first.text_content()
    page.fill("input[name=edges]", "")
    page.fill("input[name=text]", "weak")
    assert rows.count() == 1
    page.fill("input[name=text]", "w_coarse")
    page.locator("tbody tr:visible td:nth-child(2) a").first.click()
    page.wait_for_selector("body[data-viewer=ready]")
    panes = page.locator("canvas")
    assert page.locator("figcaption").all_text_contents() == ["t1 (scan)", "t2 (synthetic)"]
    page.wait_for_timeout(500)
    for pane in panes.all():
        assert len(set(pane.screenshot())) > 100 and grey_levels(pane.screenshot()) > 20
    box = panes.first.bounding_box()
    page.mouse.click(box["x"] + box["width"] * 0.22, box["y"] + box["height"] * 0.22)
    page.wait_for_timeout(500)
    places = page.evaluate("voxlateViewers.map((v) => Array.from(v.scene.crosshairPos))")
    assert places[0] != [0.5, 0.5, 0.5]
    np.testing.assert_allclose(places[0], places[1], atol=0.02)  # one's crosshair is the other's
    assert page.locator("#place").text_content().startswith("right ")
    assert told == []
    assert all(url.startswith(("file:", "data:", "blob:")) for url in asked)


def grey_levels(png: bytes) -> int:
    import io

    from matplotlib.image import imread

    return len(np.unique((imread(io.BytesIO(png))[..., 0] * 255).astype(int)))
