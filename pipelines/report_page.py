"""A page of headings, paragraphs, tables and pictures, as Markdown and as one HTML file."""

import base64
import html
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2em auto; max-width: 75em; padding: 0 1em;
  color: #1a1a1a; background: #fff; }
table { border-collapse: collapse; margin: .6em 0 1.4em; font-size: 13px; display: block;
  overflow-x: auto; }
th, td { border: 1px solid #ccc; padding: .25em .6em; text-align: left; white-space: nowrap; }
th { background: #f2f2f2; }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
nav { columns: 2; font-size: 13px; margin: 1em 0; }
nav a { display: block; color: #1a4f8b; text-decoration: none; }
img { max-width: 100%; }
pre { background: #f6f6f6; padding: .8em; overflow-x: auto; font-size: 12px; }
.notice { border-left: 4px solid #b00; padding: .4em 1em; background: #fff4f4; }
figcaption { color: #444; }
"""
_NUMBER = re.compile(r"[+-]?\d[\d.]*( |$)")
_BOLD = re.compile(r"\*\*(.+?)\*\*")


@dataclass
class Page:
    """What is added to it, in order.

    Args:
        title: Of the page.
    """

    title: str
    _markdown: list[str] = field(default_factory=list)
    _html: list[str] = field(default_factory=list)
    _contents: list[str] = field(default_factory=list)

    def heading(self, text: str, level: int = 2) -> None:
        """A heading; 1 is the page's own, 2 is listed at the top of the HTML."""
        self._markdown.append(f"{'#' * level} {text}")
        place = ""
        if level == 2:
            self._contents.append(text)
            place = f' id="part{len(self._contents)}"'
        self._html.append(f"<h{level}{place}>{_inline(text)}</h{level}>")

    def text(self, text: str) -> None:
        """A paragraph; words between backticks are set as code, between ** in bold."""
        self._markdown.append(text)
        self._html.append(f"<p>{_inline(text)}</p>")

    def notice(self, text: str) -> None:
        """A paragraph that nobody must miss."""
        self._markdown.append(f"> **{text}**")
        self._html.append(f'<p class="notice"><strong>{_inline(text)}</strong></p>')

    def table(self, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """A table; without rows, nothing."""
        if not rows:
            return
        lines = [header, ["---"] * len(header), *rows]
        cells = [[str(cell).replace("|", "\\|").replace("\n", " ") for cell in r] for r in lines]
        self._markdown.append("\n".join(f"| {' | '.join(row)} |" for row in cells))
        head = "".join(f"<th>{_inline(cell)}</th>" for cell in header)
        body = "".join("<tr>" + "".join(_cell(str(cell)) for cell in row) + "</tr>" for row in rows)
        self._html.append(f"<table><tr>{head}</tr>{body}</table>")

    def code(self, text: str) -> None:
        """A block of text as it stands."""
        self._markdown.append(f"```\n{text}\n```")
        self._html.append(f"<pre>{html.escape(text)}</pre>")

    def picture(self, png: bytes, file: str, caption: str) -> None:
        """A PNG picture: within the HTML, and as ``file`` beside the Markdown."""
        self._markdown.append(f"![{caption}]({file})\n\n{caption}")
        data = base64.b64encode(png).decode()
        self._html.append(
            f'<figure><img alt="{html.escape(caption)}" src="data:image/png;base64,{data}">'
            f"<figcaption>{_inline(caption)}</figcaption></figure>"
        )

    def markdown(self) -> str:
        """The page as Markdown."""
        return "\n\n".join([f"# {self.title}", *self._markdown]) + "\n"

    def html(self) -> str:
        """The page as one HTML file that needs no other."""
        title = html.escape(self.title)
        links = (
            f'<a href="#part{n}">{_inline(text)}</a>' for n, text in enumerate(self._contents, 1)
        )
        contents = f"<nav>{''.join(links)}</nav>\n" if len(self._contents) > 1 else ""
        return (
            f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
            f"<style>{STYLE}</style></head><body>\n<h1>{title}</h1>\n{contents}"
            + "\n".join(self._html)
            + "\n</body></html>\n"
        )


def _cell(text: str) -> str:
    kind = ' class="number"' if _NUMBER.match(text) else ""
    return f"<td{kind}>{_inline(text)}</td>"


def _inline(text: str) -> str:
    parts = html.escape(text).split("`")
    if len(parts) % 2 == 0:
        return _BOLD.sub(r"<strong>\1</strong>", "`".join(parts))
    pairs = (
        f"<code>{p}</code>" if i % 2 else _BOLD.sub(r"<strong>\1</strong>", p)
        for i, p in enumerate(parts)
    )
    return "".join(pairs)
