"""The unit of an evaluation: one number, and everything that says which."""

from collections.abc import Iterable
from typing import NamedTuple

TRANSLATION = "translation"
MISSING = "missing"  #: how the note of a prediction that is not there begins
FAILED = "failed"  #: ... and of one that cannot be used


class Row(NamedTuple):
    """One value: a line of ``cases.csv``.

    Attributes:
        run: The predictions it belongs to; empty for answers that need no network.
        case: Id of the case.
        subject: The patient.
        given: The contrasts that the prediction was made from, joined by ``+``; empty if unknown.
        target: The contrast.
        answer: ``translation``, or the name of a baseline.
        metric_set: In ``METRIC_SETS``.
        region: Where.
        metric: What.
        value: How much; not-a-number where it cannot be said, see ``note``.
        voxels: In the region.
        note: Why there is no value; or that the prediction is missing or failed, and an empty
            volume was measured in its place.
    """

    run: str
    case: str
    subject: str
    given: str
    target: str
    answer: str
    metric_set: str
    region: str
    metric: str
    value: float
    voxels: int
    note: str = ""

    @property
    def absent(self) -> bool:
        """Whether it is the value of an empty volume in place of a prediction."""
        return self.note.startswith((MISSING, FAILED))


def join_given(modalities: Iterable[str], order: Iterable[str]) -> str:
    """The name of a set of contrasts, in a fixed order: ``t1+t2``."""
    have = set(modalities)
    return "+".join(name for name in order if name in have)


def split_given(given: str) -> tuple[str, ...]:
    """The contrasts of a set by name."""
    return tuple(given.split("+")) if given else ()
