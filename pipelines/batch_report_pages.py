"""The pages of a report: text into templates, and every text escaped on its way."""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from pathlib import PurePosixPath
from string import Template
from urllib.parse import quote

import voxlate
from voxlate.data_prep.errors import printable

from .batch_report_cases import STATUSES, ReportCase
from .sidecar import STATEMENT

TEMPLATES = files(__package__) / "report_files"
# From disk "self" is nothing to some browsers; file: lets a page read what lies beside it.
POLICY = (
    "default-src 'none'; script-src 'self' file:; style-src 'self' file: 'unsafe-inline'; "
    "img-src 'self' file: data: blob:; connect-src data: blob:; form-action 'none'; "
    "base-uri 'none'"
)


def index_page(cases: Sequence[ReportCase], title: str, written: str) -> bytes:
    """The overview, a row for each case in the order given.

    Args:
        cases: All of them.
        title: Above it.
        written: When.
    """
    counts = Counter(case.status for case in cases)
    targets = sorted({name for case in cases for name in case.targets})
    codes = sorted({code for case in cases for code in _codes(case)})
    return _fill(
        "index.html",
        policy=POLICY,
        title=_text(title),
        statement=_text(STATEMENT),
        counts="".join(f'<li class="{name}"><b>{counts[name]}</b>{name}</li>' for name in STATUSES),
        statuses=_options(name for name in STATUSES if counts[name]),
        targets=_options(targets),
        warnings=_options(codes),
        rows="\n".join(_row(case) for case in cases),
        written=_text(written),
        version=_text(voxlate.__version__),
    )


def case_page(case: ReportCase, *, spacing: float | None) -> bytes:
    """All that is known of a case.

    Args:
        case: What to tell.
        spacing: Of the volumes to show, in mm; None shows none.
    """
    viewer = ""
    if spacing is not None and case.targets and case.status != "damaged":
        viewer = _fill("viewer.html", key=case.key, spacing=f"{spacing:g}").decode()
    picture = _picture_link(case, "../../")
    return _fill(
        "case.html",
        policy=POLICY,
        title=_text(case.id),
        statement=_text(STATEMENT),
        status=case.status,
        matter=_matter(case),
        viewer=viewer,
        picture=f'<h2>Picture</h2><img class="picture" src="{picture}" alt="">' if picture else "",
        facts=_facts(case),
    )


def _fill(name: str, **parts: str) -> bytes:
    return Template((TEMPLATES / name).read_text("utf-8")).substitute(parts).encode("utf-8")


def _text(value: object) -> str:
    """As HTML, within elements and quoted attributes; undecodable bytes become escapes."""
    return html.escape(printable(str(value)))


def _options(names: Iterable[str]) -> str:
    return "".join(f'<option value="{_text(name)}">{_text(name)}</option>' for name in names)


def _codes(case: ReportCase) -> list[str]:
    codes = [text.split(":")[0] for text in case.warnings]
    if case.failure.get("code"):
        codes.append(case.failure["code"])
    return list(dict.fromkeys(codes))


def _row(case: ReportCase) -> str:
    page = f"cases/{case.key}.html"
    picture = _picture_link(case, "../")
    image = f'<img class="thumbnail" loading="lazy" src="{picture}" alt="">' if picture else ""
    edges = "<br>".join(
        f"{_text(target)} {value:.2f}"
        for target, values in case.scores.items()
        if (value := values.get("EdgeAgreement")) is not None
    )
    lowest = "" if case.edges is None else f"{case.edges:.4f}"
    near = f"{case.severity:.0%}" if case.scores else "-"
    return (
        f'<tr data-status="{case.status}" data-edges="{lowest}" '
        f'data-targets="{_text(" ".join(case.targets))}" '
        f'data-warnings="{_text(" ".join(_codes(case)))}"><td><a href="{page}">{image}</a></td>'
        f'<td><a href="{page}">{_text(case.id)}</a></td>'
        f'<td class="{case.status}">{case.status}</td>'
        f"<td>{_text(' + '.join(case.inputs))} &rarr; {_text(', '.join(case.targets)) or '-'}</td>"
        f'<td class="number">{edges or "-"}</td><td class="number">{near}</td>'
        f"<td>{_matter(case)}</td></tr>"
    )


def _matter(case: ReportCase) -> str:
    """Why it failed, what is damaged, what is doubtful: a list, or nothing."""
    lines = []
    if case.failure:
        named = {key: case.failure.get(key, "") for key in ("code", "file", "what", "todo")}
        lines.append("{code} {file}: {what} - {todo}".format(**named))
    if case.damage:
        lines.append(f"damaged: {case.damage}; run the batch again to have it made again")
    lines += case.warnings
    items = "".join(f"<li>{_text(line)}</li>" for line in lines)
    return f"<ul>{items}</ul>" if items else ""


def _picture_link(case: ReportCase, up: str) -> str:
    entry = case.record.get("Picture")
    if not isinstance(entry, Mapping) or case.status == "damaged":
        return ""
    name = PurePosixPath(str(entry.get("File", ""))).name
    place = str(PurePosixPath(case.place).parent / name)
    return up + quote(place.encode("utf-8", "surrogateescape"))


def _facts(case: ReportCase) -> str:
    """Measurements and the record, as tables."""
    parts = []
    if case.scores:
        names = list(dict.fromkeys(name for values in case.scores.values() for name in values))
        head = "".join(f"<th>{_text(name)}</th>" for name in names)
        body = "".join(
            f"<tr><td>{_text(target)}</td>"
            + "".join(f'<td class="number">{_number(values.get(name))}</td>' for name in names)
            + "</tr>"
            for target, values in case.scores.items()
        )
        parts.append(f"<h2>Scores</h2><table><tr><th>Target</th>{head}</tr>{body}</table>")
    if case.record:
        facts = "".join(f"<dt>{_text(n)}</dt><dd>{_text(v)}</dd>" for n, v in _flat(case.record))
        parts.append(f"<h2>Record</h2><dl>{facts}</dl>")
    return "\n".join(parts)


def _number(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, (int, float)) else "-"


def _flat(record: Mapping[str, object], before: str = "") -> list[tuple[str, object]]:
    """Names and values of nested tables; what the page tells elsewhere is left out."""
    found: list[tuple[str, object]] = []
    for name, value in record.items():
        if not before and name in ("Scores", "Warnings", "Statement"):
            continue
        if isinstance(value, Mapping):
            found += _flat(value, f"{before}{name} ")
        else:
            shown = ", ".join(map(str, value)) if isinstance(value, list) else value
            found.append((f"{before}{name}", "-" if shown is None else shown))
    return found
