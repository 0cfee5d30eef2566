"""The layouts by name."""

from __future__ import annotations

from .errors import UsageError
from .layout_brats import BRATS_2020, BRATS_2021, BRATS_2023
from .layout_general import BIDS, TABLE
from .layout_single import ISLES_2015, IXI, SYNTHRAD_2023, WMH_2017
from .layouts import Layout

LAYOUTS = {
    layout.name: layout
    for layout in (
        BRATS_2020,
        BRATS_2021,
        BRATS_2023,
        IXI,
        ISLES_2015,
        WMH_2017,
        SYNTHRAD_2023,
        BIDS,
        TABLE,
    )
}


def layout_by_name(name: str) -> Layout:
    """The layout of that name.

    Raises:
        UsageError: There is none.
    """
    if name not in LAYOUTS:
        raise UsageError(
            f"unknown layout {name!r}", f"choose from {', '.join(LAYOUTS)}", code="E_LAYOUT"
        )
    return LAYOUTS[name]
