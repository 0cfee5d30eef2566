"""Cases from a CSV file: a row each, with an id, a column for each modality and maybe targets."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from voxlate.data_prep import NoInputError, UsageError, parse_modality
from voxlate.data_prep.errors import printable

from .case_list import CaseJob, Refusal, Wanted, make_job, unusable_id
from .layouts import tree_files

FORMULA = ("=", "+", "-", "@", "\t")


def table_jobs(path: Path, modalities: Sequence[str], wanted: Wanted) -> list[CaseJob]:
    """Read a list of cases.

    Every field is text as it stands: ids keep their zeros. The separator is a comma, a semicolon or
    a tab, whichever the first line has most of. Files are relative to the list. ``targets`` are
    separated by blanks, ``+`` or ``|``. Further columns are passed over, so that ``failed.csv`` is
    a list too.

    Raises:
        NoInputError: There is no such list, or it has no rows.
        UsageError: It has no id or no modality column, or an id twice.
    """
    rows = _rows(path)
    header = [name.strip() for name in rows[0][1]]
    columns: dict[int, str] = {}
    for index, name in enumerate(header):
        try:
            columns[index] = parse_modality(name, modalities)
        except UsageError:
            continue
    names = [name.lower() for name in header]
    if "id" not in names or not columns:
        raise UsageError(
            f"the first line must name the columns id and a modality, it is {header}",
            f"name them id, {', '.join(modalities)}",
            code="E_TABLE",
            file=path,
        )
    if len(set(columns.values())) < len(columns):
        raise UsageError("two columns are the same modality", "keep one", code="E_TABLE", file=path)
    places = {name: index for index, name in columns.items()}
    places = {name: places[name] for name in modalities if name in places}
    place = names.index("id")
    target_place = names.index("targets") if "targets" in names else None
    jobs: list[CaseJob] = []
    lines: dict[str, int] = {}
    for line, row in rows[1:]:
        fields = [unescape(field) for field in row] + [""] * (len(header) - len(row))
        case_id = fields[place]
        if case_id.casefold() in lines:
            raise UsageError(
                f"id {printable(case_id)!r} is in line {lines[case_id.casefold()]} and in {line}",
                "give every case its own id",
                code="E_CLASH",
                file=path,
            )
        lines[case_id.casefold()] = line
        given = {name: path.parent / fields[i] for name, i in places.items() if fields[i].strip()}
        asked = "" if target_place is None else fields[target_place]
        jobs.append(_job(case_id, given, asked, path, line, modalities, wanted))
    if not jobs:
        raise NoInputError("the list has no rows", "add cases", code="E_NO_INPUT", file=path)
    return jobs


def escape(field: str) -> str:
    """Text for a CSV field that no spreadsheet takes for a formula."""
    return f"'{field}" if field.startswith((*FORMULA, "'")) else field


def unescape(field: str) -> str:
    """The text that ``escape`` was given."""
    return field[1:] if field[:1] == "'" and field[1:].startswith((*FORMULA, "'")) else field


def _job(
    case_id: str,
    given: dict[str, Path],
    asked: str,
    table: Path,
    line: int,
    modalities: Sequence[str],
    wanted: Wanted,
) -> CaseJob:
    """One row; what is wrong with it is its own refusal."""
    where = f"{printable(table)}:{line}"
    try:
        names = asked.replace("+", " ").replace("|", " ").split()
        targets = [parse_modality(name, modalities) for name in names] or None
    except UsageError as error:
        refusal = Refusal(error.what, error.todo, error.code, where)
    else:
        if unusable := unusable_id(case_id):
            refusal = Refusal(unusable, "give it another id", "E_PATH", where)
        elif not given:
            refusal = Refusal("the row names no scan", "name one", "E_MISSING", where)
        else:
            return make_job(given, table.parent, wanted, case_id=case_id, targets=targets)
    scan = next(iter(given.values()), table)
    harmless = f"row-{line}"  # its real id may be no file name
    return CaseJob(
        case_id,
        "",
        str(scan),
        (),
        tree_files(harmless, ()),
        given={name: str(path) for name, path in given.items()},
        refusal=refusal,
    )


def _rows(path: Path) -> list[tuple[int, list[str]]]:
    """Line numbers and fields of the lines that are not empty."""
    try:
        text = path.read_text(encoding="utf-8-sig", errors="surrogateescape")
    except OSError as error:
        raise NoInputError(
            f"cannot be read ({error.strerror})", "check the path", code="E_PATH", file=path
        ) from None
    first = text.partition("\n")[0]
    separator = max(",;\t", key=first.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    try:
        rows = [(reader.line_num, row) for row in reader if any(field.strip() for field in row)]
    except csv.Error as error:
        raise UsageError(
            f"it is no CSV file ({error})", "save it as CSV", code="E_TABLE", file=path
        ) from None
    if not rows:
        raise NoInputError("the list is empty", "add cases", code="E_NO_INPUT", file=path)
    return rows
