"""Every benchmark in turn: ``python -m benchmarks [--update]``.

What a machine lacks (a GPU, memory) is skipped with a line that says so. ``--update`` also puts the
figures into the README beside this file.
"""

import argparse
import os
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

HERE = Path(__file__).parent
SCRIPTS = ("pipeline.py", "blocks.py", "wavelets.py", "frequency_blocks.py", "paper_preset.py")
BEGIN, END = "<!-- figures -->\n", "<!-- end of figures -->"


def machine() -> str:
    """One line: processor, cores, versions."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    flags = next((line.split() for line in lines if line.startswith("flags")), [])
    matrix = "with" if "amx_bf16" in flags else "without"
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "monai"))
    processor = names[0] if names else platform.processor()
    return f"{processor}, {os.cpu_count()} cores, {matrix} AMX; {versions}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--update", action="store_true", help="put the figures into the README")
    options = parser.parse_args()
    parts = [f"{machine()}\n"]
    print(parts[0], flush=True)
    for name in SCRIPTS:
        done = subprocess.run(
            [sys.executable, str(HERE / name)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        parts.append(f"## {name}\n\n{done.stdout.rstrip()}\n")
        print(parts[-1], flush=True)
    if options.update:
        readme = HERE / "README.md"
        before, _, rest = readme.read_text(encoding="utf-8").partition(BEGIN)
        after = rest.partition(END)[2]
        figures = "\n".join(parts)
        readme.write_text(f"{before}{BEGIN}\n{figures}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
