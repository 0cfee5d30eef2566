"""A refusal under ``monai.bundle run``: its one line, not the traceback around it."""

import sys
from types import TracebackType

from voxlate.data_prep import VoxlateError


def refusal_in(error: BaseException | None) -> VoxlateError | None:
    """The refusal that an error goes back to, through all it was raised from; None if to none.

    A configuration's parser wraps what an expression raises, once for each reference to it.
    """
    while error is not None:
        if isinstance(error, VoxlateError):
            return error
        error = error.__cause__ or error.__context__
    return None


def refuse_plainly() -> None:
    """From now on a refusal that ends this process prints its line; a bug keeps its traceback.

    Of a configuration's ``initialize``. The process ends with status 1, as Python's does with any
    error that nobody handles.
    """
    usual = sys.excepthook

    def told(
        kind: type[BaseException], error: BaseException, traceback: TracebackType | None
    ) -> None:
        refusal = refusal_in(error)
        if refusal is None:
            usual(kind, error, traceback)
        else:
            print(f"voxlate: {refusal}", file=sys.stderr)

    sys.excepthook = told
