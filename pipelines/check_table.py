"""A check's findings as a table for people."""

from rich.console import Console
from rich.table import Table
from rich.text import Text

from .check import Report

COLOURS = {"error": "red", "warning": "yellow"}


def print_report(report: Report, console: Console | None = None) -> None:
    """Print findings, errors first, and one line that sums up."""
    console = console or Console()
    if report.findings:
        table = Table("", "check", "case", "what", box=None, pad_edge=False, header_style="bold")
        for finding in report.findings:
            level = Text(finding.level, style=COLOURS[finding.level])
            table.add_row(level, finding.check, Text(finding.case), Text(finding.text))
        console.print(table)
    scans = sum(len(facts.hashes) for facts in report.cases)
    warnings = len(report.findings) - report.errors
    console.print(
        f"{len(report.cases)} cases, {scans} scans: {report.errors} errors, {warnings} warnings",
        highlight=False,
    )
