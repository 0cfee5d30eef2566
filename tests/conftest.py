"""Where outside data lies, no network, and no GPU tests where there is no GPU."""

import importlib.util
import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parents[1]


def outside_folder(variable: str, default: str) -> Path:
    folder = Path(os.environ.get(variable, ROOT / default))
    if not folder.is_dir():
        pytest.skip(f"{variable} names no folder ({folder} is absent)")
    return folder


@pytest.fixture(scope="session")
def vectors_dir() -> Path:
    """Golden vectors computed with reference implementations."""
    return outside_folder("VOXLATE_VECTORS", "../shared/vectors")


@pytest.fixture(scope="session")
def real_data_dir() -> Path:
    """Openly licensed scans; never part of the repository."""
    return outside_folder("VOXLATE_REAL_DATA", "../shared/data")


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Refuse connections to anything but this machine."""
    connect = socket.socket.connect

    def local_only(self: socket.socket, address: object) -> None:
        host = address[0] if isinstance(address, tuple) else "localhost"
        if host not in ("localhost", "127.0.0.1", "::1"):
            raise OSError(f"tests must not connect to {host}")
        connect(self, address)  # type: ignore[arg-type]

    monkeypatch.setattr(socket.socket, "connect", local_only)
    yield


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))


@pytest.fixture(scope="session")
def layout_trees(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Plants the folders of a public data set: ``layout_trees(name, root, count=4)``."""
    path = ROOT / "tests" / "layout_trees.py"
    spec = importlib.util.spec_from_file_location("layout_trees", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.LayoutTrees(tmp_path_factory.mktemp("trees"))


@pytest.fixture
def importable(tmp_path: Path) -> dict[str, str]:
    """Environment of a process that can import voxlate, installed or not."""
    package = tmp_path / "importable" / "voxlate"
    package.mkdir(parents=True)
    (package / "__init__.py").write_bytes((ROOT / "src/voxlate/__init__.py").read_bytes())
    for room in ("bundles", "data_prep", "networks", "pipelines"):
        (package / room).symlink_to(ROOT / room)
    paths = [str(package.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}


@pytest.fixture
def browser() -> Iterator[Any]:
    """Headless Chromium without a network."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="no playwright")
    program = shutil.which("chromium") or shutil.which("google-chrome")
    software = ["--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist"]
    with sync_api.sync_playwright() as playwright:
        try:
            started = playwright.chromium.launch(
                executable_path=program, args=["--no-sandbox", *software], timeout=60_000
            )
        except sync_api.Error as error:
            pytest.skip(f"no Chromium: {str(error).splitlines()[0]}")
        yield started
        started.close()
