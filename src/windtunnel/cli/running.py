"""``windtunnel run``: one experiment from its file to its best configuration."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from rich.console import Console

from windtunnel.cli.session import Ended, Output, hold, make_importable, present
from windtunnel.cli.sources import Sources
from windtunnel.config.build import assemble

__all__ = ["run_file"]


def run_file(
    file: Path, *, overrides: Mapping[str, object], sources: Sources, hosts: str | None, output: Output
) -> int:
    """Run, or resume, what ``file`` describes, and print how it went.

    :param hosts: patterns of the names of those to use; default all.
    :returns: the exit code.
    :raises WindtunnelError: if it cannot be run.
    """
    console = output.console()
    loaded = sources.load(file, overrides)
    make_importable(loaded.origin.directory)

    async def run(console: Console) -> Ended:
        async with assemble(loaded, only=hosts) as assembly:
            return await hold(assembly, loaded, console, output)

    return present(run, console, as_data=output.as_data)
