"""What keeps the house in shape: who imports whom, what is declared, what is packaged."""

import ast
import configparser
import fnmatch
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("bundles", "data_prep", "networks", "pipelines")
MAY_IMPORT = {
    "bundles": set(),
    "data_prep": {"data_prep"},
    "networks": {"networks"},
    "pipelines": {"data_prep", "networks", "pipelines", "bundles"},
}
DISTRIBUTIONS = {
    "generative": "monai-generative",
    "ignite": "pytorch-ignite",
    "open_clip": "open_clip_torch",
    "pywt": "PyWavelets",
    "yaml": "PyYAML",
}
OPTIONAL_EXTRAS = ("demo", "generative", "ray", "text", "tracking")
# Never imported here, needed all the same.
INDIRECT = {
    "fire": "the command line of monai.bundle",
    "tensorboard": "torch.utils.tensorboard and MONAI's TensorBoard handlers",
}


def setup_cfg() -> configparser.ConfigParser:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    return config


def lines(value: str) -> list[str]:
    return [line.strip() for line in value.splitlines() if line.strip() and line.strip()[0] != "#"]


def requirement_name(requirement: str) -> str:
    return re.split(r"[<>=!~\[; ]", requirement, maxsplit=1)[0]


def modules(room: str) -> Iterator[Path]:
    return (path for path in (ROOT / room).rglob("*.py") if "__pycache__" not in path.parts)


def imports(path: Path) -> Iterator[str]:
    """Dotted names of absolute imports; ``from voxlate import x`` counts as ``voxlate.x``."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            module = node.module or ""
            if module == "voxlate":
                yield from (f"voxlate.{alias.name}" for alias in node.names)
            else:
                yield module


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_import_one_way(room: str) -> None:
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in modules(room)
        for name in imports(path)
        if name.startswith("voxlate.")
        and name.split(".")[1] in ROOMS
        and name.split(".")[1] not in MAY_IMPORT[room]
    ]
    assert not wrong


@pytest.mark.parametrize("room", [*ROOMS, "tests", "benchmarks"])
def test_nobody_imports_a_room_by_its_bare_name(room: str) -> None:
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in modules(room)
        for name in imports(path)
        if name.split(".")[0] in ROOMS
    ]
    assert not wrong, "a bare room name loads second copies of every class"


def test_packages_list_names_every_folder() -> None:
    config = setup_cfg()
    folders = {
        "voxlate." + ".".join(path.parent.relative_to(ROOT).parts)
        for room in ROOMS
        for path in (ROOT / room).rglob("__init__.py")
    }
    assert set(lines(config["options"]["packages"])) == folders | {"voxlate"}
    mapped = dict(re.split(r"\s*=\s*", line) for line in lines(config["options"]["package_dir"]))
    assert mapped == {"voxlate": "src/voxlate"} | {f"voxlate.{room}": room for room in ROOMS}


def test_declared_dependencies_are_the_imported_ones() -> None:
    config = setup_cfg()
    core = {requirement_name(line) for line in lines(config["options"]["install_requires"])}
    optional = {
        requirement_name(line)
        for extra in OPTIONAL_EXTRAS
        for line in lines(config["options.extras_require"][extra])
    }
    imported = {
        name.split(".")[0] for room in ROOMS for path in modules(room) for name in imports(path)
    } - set(sys.stdlib_module_names)
    imported -= {"voxlate", "__future__"}
    used = {DISTRIBUTIONS.get(name, name) for name in imported}
    assert used <= core | optional, "imported but not declared"
    assert core <= used | set(INDIRECT), "declared but not imported"


def test_development_tools_are_not_imported_by_the_package() -> None:
    tools = {"pytest", "hypothesis", "beartype", "skimage", "jsonschema"}
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for room in ROOMS
        for path in modules(room)
        for name in imports(path)
        if name.split(".")[0] in tools
    ]
    assert not wrong


def test_bundles_name_only_installed_targets() -> None:
    target = re.compile(r"[\"']?_target_[\"']?\s*:\s*[\"']?([^\s\"',}]+)")
    allowed = re.compile(
        r"(voxlate|monai|torch|ignite)\.|\$|@|%|builtins\.|functools\.|[A-Z][A-Za-z0-9]*$"
    )
    wrong = [
        f"{path.relative_to(ROOT)} names {name}"
        for path in (ROOT / "bundles").glob("*/configs/*")
        if path.suffix in {".yaml", ".yml", ".json"}
        for name in target.findall(path.read_text(encoding="utf-8"))
        if not allowed.match(name)
    ]
    assert not wrong


def test_every_tracked_bundle_file_is_packaged() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listed = subprocess.run(
        ["git", "ls-files", "bundles"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.split()
    patterns = lines(setup_cfg()["options.package_data"]["voxlate.bundles"]) + ["*.py", "py.typed"]
    missed = [
        name
        for name in listed
        if not any(
            fnmatch.fnmatch(name.removeprefix("bundles/"), pattern)
            and name.count("/") == pattern.count("/") + 1
            for pattern in patterns
        )
    ]
    assert not missed


def test_no_shipped_file_is_too_large_for_the_model_zoo() -> None:
    large = [p for p in (ROOT / "bundles").rglob("*") if p.is_file() and p.stat().st_size > 25e6]
    assert not large
