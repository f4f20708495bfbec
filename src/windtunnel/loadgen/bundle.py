"""What a generator is made of: the modules that a host needs which does not have this package."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import itertools
import shutil
import sysconfig
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

__all__ = ["Identity", "bundle", "identity"]

_OWN = ("*.py", "loadgen/*.py", "tunables/*.py")
"""The load generator, and the layers below it that it may import."""

_LIBRARIES = (
    "annotated_types",
    "anyio",
    "httptools",
    "idna",
    "pydantic",
    "pydantic_core",
    "sniffio",
    "typing_extensions",
    "typing_inspection",
    "uvloop",
)
_SUFFIXES = (".py", ".so")
_MAIN = "import runpy\nrunpy.run_module('windtunnel.loadgen.agent', run_name='__main__')\n"
_METADATA = "Metadata-Version: 2.1\nName: windtunnel\nVersion: {}\n"


class Identity(NamedTuple):
    """What tells a bundle from any other.

    :ivar abi: for which Python, machine and C library its compiled modules are.
    :ivar digest: of all of it.
    """

    version: str
    abi: str
    digest: str


@functools.cache
def identity() -> Identity:
    """Of the one that is made here; reads all of it."""
    ours, abi = version("windtunnel"), str(sysconfig.get_config_var("SOABI"))
    found = hashlib.sha256(f"{ours} {abi} {_MAIN}".encode())
    for target, source in sorted(_modules()):
        found.update(f"\0{target}\0".encode())
        found.update(source.read_bytes())
    return Identity(ours, abi, found.hexdigest()[:16])


def bundle(folder: Path) -> None:
    """Write it to a folder, which Python can run as a program: ``python3 FOLDER``."""
    for target, source in _modules():
        place = folder / target
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, place)
    (folder / "__main__.py").write_text(_MAIN)
    about = folder / f"windtunnel-{version('windtunnel')}.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(_METADATA.format(version("windtunnel")))


def _modules() -> Iterator[tuple[str, Path]]:
    """Each file: where it belongs, and where it is."""
    own = Path(__file__).parents[1]
    for source in itertools.chain.from_iterable(map(own.glob, _OWN)):
        yield f"windtunnel/{source.relative_to(own)}", source
    for name in _LIBRARIES:
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:  # not every version of the others needs it
            continue
        source = Path(spec.origin)
        if spec.submodule_search_locations is None:
            yield source.name, source
            continue
        for file in source.parent.rglob("*"):
            if file.suffix in _SUFFIXES:
                yield f"{name}/{file.relative_to(source.parent)}", file
