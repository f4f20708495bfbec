"""``windtunnel mlos`` and ``windtunnel convert``: configuration trees of mlos_bench."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path

import anyio
from rich.console import Console

from windtunnel.cli.console import make_console
from windtunnel.cli.logs import logging_to
from windtunnel.cli.session import Ended, Output, hold, make_importable, present
from windtunnel.cli.verdict import MISUSED, OK
from windtunnel.cli.words import plain
from windtunnel.config.build import assemble
from windtunnel.config.mlos import Tree, read_tree
from windtunnel.errors import ConfigError
from windtunnel.storage import Experiment, upgrade_storage

__all__ = ["convert_tree", "run_tree"]

logger = logging.getLogger(__name__)

_FIRST = 1
"""Priority of a stored configuration that was asked for."""


def run_tree(argv: Sequence[str], *, output: Output) -> int:
    """Run, or resume, what a command line of mlos_bench describes, and print how it went.

    :returns: the exit code.
    :raises WindtunnelError: if it cannot be run.
    """
    tree = read_tree(argv, directory=Path.cwd())
    output = replace(output, verbosity=max(output.verbosity, _verbosity(tree)))
    console = output.console()
    with _log_file(tree):
        for note in tree.noted:
            logger.warning("%s", note)
        if not tree.only_schema:
            return _run(tree, console, output)
        tree.load()
        anyio.run(upgrade_storage, tree.database.url)
        return OK


def _run(tree: Tree, console: Console, output: Output) -> int:
    loaded = tree.load()
    make_importable(tree.home)

    async def run(console: Console) -> Ended:
        async with assemble(loaded) as assembly:
            await _enqueue(tree.config_id, assembly.experiment, repeats=loaded.config.repeats)
            return await hold(assembly, loaded, console, output)

    return present(run, console, as_data=output.as_data)


def convert_tree(argv: Sequence[str], *, output: Path | None) -> int:
    """Write the tree as one file of our own.

    :param output: default the standard output.
    :returns: the exit code.
    :raises ConfigError: if the tree cannot be read, or the file not be written.
    """
    from windtunnel.config.mlos.writing import to_yaml

    home = None if output is None else output.absolute().parent
    tree = read_tree(argv, directory=Path.cwd(), home=home)
    text = to_yaml(tree)
    _tell("note", (*tree.noted, *tree.lacking))
    _tell("error", tree.refused)
    if output is None:
        sys.stdout.write(text)
        return MISUSED if tree.refused else OK
    try:
        output.write_text(text, encoding="utf-8")
    except OSError as exc:
        raise ConfigError(f"cannot write {str(output)!r}: {exc.strerror or exc}") from None
    return MISUSED if tree.refused else OK


def _tell(kind: str, errors: Sequence[ConfigError]) -> None:
    console = make_console(sys.stderr)
    for error in errors:
        console.print(plain(f"{kind}: {error}"), soft_wrap=True)


async def _enqueue(config_id: int | None, experiment: Experiment, *, repeats: int) -> None:
    """Have a stored configuration run before what the optimizer proposes.

    :raises NotFound: if there is none of this number.
    """
    for _ in range(repeats if config_id is not None else 0):
        await experiment.enqueue(None, config_id=config_id, priority=_FIRST)


# The log


def _verbosity(tree: Tree) -> int:
    """What is logged to the console; a log file takes it all instead."""
    if tree.log_level is None or tree.log_file is not None:
        return 0
    level = _level(tree.log_level)
    return 2 if level < logging.INFO else 1 if level < logging.WARNING else 0


def _level(name: str) -> int:
    levels = logging.getLevelNamesMapping()
    if name.isdecimal():
        return int(name)
    if name not in levels:
        raise ConfigError(f"expected a log level, such as DEBUG or INFO, found {name!r}")
    return levels[name]


def _log_file(tree: Tree) -> AbstractContextManager[None]:
    if tree.log_file is None:
        return nullcontext()
    return logging_to(tree.log_file, level=_level(tree.log_level or "INFO"))
