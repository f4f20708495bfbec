"""``windtunnel new``: a small project to start from."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from windtunnel.cli.data import as_json
from windtunnel.cli.program import program
from windtunnel.errors import ConfigError

__all__ = ["TEMPLATES", "make_project"]

_EXAMPLES = Path(__file__).parent.parent / "examples"
TEMPLATES: Mapping[str, Path] = MappingProxyType(
    {
        "load": _EXAMPLES / "templates" / "load",
        "local": _EXAMPLES / "templates" / "local",
        "ssh": _EXAMPLES / "templates" / "ssh",
        "sqlite": _EXAMPLES / "sqlite_pragmas",
    }
)
_ID = re.compile(r"^experiment: [\w-]+", re.MULTILINE)


def make_project(folder: Path, template: str, *, as_data: bool) -> None:
    """Make ``folder`` with the files of a template; its name becomes the experiment's id.

    :raises ConfigError: if there is something already, or it cannot be made.
    """
    name = folder.absolute().name
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", name):
        raise ConfigError(f"expected a name of letters, digits, '.', '_' and '-', found {name!r}")
    try:
        if folder.exists() and any(folder.iterdir()):
            raise ConfigError(f"{str(folder)!r} is there already and not empty; choose another name")
        files = _copied(TEMPLATES[template], folder, name)
    except OSError as exc:
        raise ConfigError(f"{str(folder)!r} cannot be made: {exc.strerror or exc}") from exc
    if as_data:
        sys.stdout.write(as_json({"directory": str(folder), "template": template, "files": files}))
        return
    made = "".join(f"  {folder / file}\n" for file in files)
    steps = "".join(f"  {step}\n" for step in (f"cd {folder}", f"{program()} run experiment.yaml"))
    sys.stdout.write(f"made\n{made}next\n{steps}")


def _copied(template: Path, folder: Path, name: str) -> list[str]:
    folder.mkdir(parents=True, exist_ok=True)
    files = sorted(path.name for path in template.iterdir() if path.is_file())
    for file in files:
        shutil.copyfile(template / file, folder / file)
    described = folder / "experiment.yaml"
    text = described.read_text(encoding="utf-8")
    described.write_text(_ID.sub(f"experiment: {name}", text, count=1), encoding="utf-8")
    return files
