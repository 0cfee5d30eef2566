"""TorchScript and run-time shape checks exclude each other."""

import pytest
import torch

from voxlate.networks.haar import haar_split


@pytest.fixture(autouse=True)
def no_script_under_shape_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip what compiles to TorchScript where jaxtyping has wrapped every function."""
    if hasattr(haar_split, "__wrapped__"):

        def skip(*_: object, **__: object) -> None:
            pytest.skip("shape checks wrap the functions that TorchScript would compile")

        monkeypatch.setattr(torch.jit, "script", skip)
