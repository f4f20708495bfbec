"""What does it cost to have windtunnel: to import it, to ask for help, and, with --install, on the disk?

Each time in fresh interpreters, after one that is not counted and fills the disk's cache.

* ``import windtunnel``: at most 0.3 s, without loading asyncssh, alembic, sqlalchemy or pydantic
* ``from windtunnel import tune``, which loads what a program that tunes needs, and ``windtunnel --help``:
  for information
* ``--install``: a core install adds at most 90 MB to a bare virtual environment (``pip install`` of this
  checkout, disk blocks, byte code included); needs a package index
"""

from __future__ import annotations

import json
import subprocess
import sys
import venv
from collections.abc import Sequence
from pathlib import Path

from _report import Bar, Figure, Stopwatch, parser, report, scratch

HEAVY = ("asyncssh", "alembic", "sqlalchemy", "pydantic")
BAR_S = 0.3
BAR_MB = 90
CHECKOUT = Path(__file__).parent.parent

_PROBE = """
import json, sys, time
began = time.perf_counter()
{statement}
seconds = time.perf_counter() - began
print(json.dumps([seconds, sorted(set({heavy!r}) & set(sys.modules))]))
"""


def imported(statement: str) -> tuple[float, list[str]]:
    """How long the statement took in a fresh interpreter, and which heavy modules it loaded."""
    script = _PROBE.format(statement=statement, heavy=HEAVY)
    done = subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, check=True, timeout=60)
    seconds, heavy = json.loads(done.stdout)
    return float(seconds), list(heavy)


def wall(command: Sequence[str]) -> float:
    """Seconds from the start of a process to its end, the interpreter's included."""
    with Stopwatch() as watch:
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True, timeout=60)
    return watch.seconds


def install_mb() -> tuple[float, float]:
    """Megabytes that a core install adds to a bare virtual environment: on the disk, and in bytes."""
    with scratch() as folder:
        venv.create(folder, with_pip=True)
        python = str(next(folder.glob("[bS]*/python*")))
        subprocess.run(
            [python, "-m", "compileall", "-q", str(folder)], check=True
        )  # as pip does for the rest
        bare = size_mb(folder)
        pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", str(CHECKOUT)]
        subprocess.run(pip, stdout=sys.stderr, check=True, timeout=600)
        full = size_mb(folder)
        return full[0] - bare[0], full[1] - bare[1]


def size_mb(folder: Path) -> tuple[float, float]:
    """What is in ``folder``, in whole disk blocks as ``du`` counts, and in bytes."""
    files = [path.lstat() for path in folder.rglob("*")]
    return sum(file.st_blocks for file in files) * 512 / 2**20, sum(file.st_size for file in files) / 2**20


def main() -> int:
    options = parser(__doc__, runs=10)
    options.add_argument("--install", action="store_true", help="also measure the size of an installation")
    chosen = options.parse_args()
    figures: dict[str, Figure] = {}

    def measured(name: str, statement: str, bar_s: float | None = None) -> list[str]:
        results = [imported(statement) for _ in range(chosen.runs + 1)][1:]
        bar: Bar | None = None if bar_s is None else ("at most", bar_s)
        figures[name] = Figure(unit="s", runs=[seconds for seconds, _ in results], bar=bar)
        return results[0][1]

    heavy = measured("import", "import windtunnel", BAR_S)
    figures["heavy_modules_loaded"] = Figure(unit="modules", runs=[len(heavy)], bar=("at most", 0))
    measured("import_tune", "from windtunnel import tune")
    help_command = [str(Path(sys.executable).with_name("windtunnel")), "--help"]
    times = [wall(help_command) for _ in range(chosen.runs + 1)][1:]
    figures["help"] = Figure(unit="s", runs=times)
    if chosen.peers:
        measured("optuna_import", "import optuna")
    if chosen.install:
        on_disk, in_bytes = install_mb()
        figures["install_on_disk"] = Figure(unit="MB", runs=[on_disk], bar=("at most", BAR_MB))
        figures["install_in_bytes"] = Figure(unit="MB", runs=[in_bytes])
    return report(__doc__, figures)


if __name__ == "__main__":
    sys.exit(main())
