"""``windtunnel worker``: takes part in an experiment as its stored description says."""

from __future__ import annotations

import logging
import platform
from collections.abc import Mapping
from pathlib import Path

import anyio.to_thread
from rich.console import Console

from windtunnel.cli.secrecy import keep_secret
from windtunnel.cli.session import Ended, Output, hold, make_importable, present
from windtunnel.cli.stored import check_exists
from windtunnel.config.build import assemble
from windtunnel.config.stored import restore
from windtunnel.errors import ConfigError, NotFound
from windtunnel.storage import Storage, open_storage

logger = logging.getLogger(__name__)

_UNDIVIDED = (
    "this worker uses every slot of all hosts of the experiment, as the others do; "
    "give each hosts of its own with --hosts"
)

__all__ = ["description_of", "join"]


def join(
    experiment_id: str,
    *,
    overrides: Mapping[str, object],
    names: Mapping[str, object],
    directory: Path | None,
    hosts: str | None,
    until_idle: bool,
    output: Output,
    as_worker: bool = True,
) -> int:
    """Run trials of a stored experiment, and print how it went.

    :param overrides: ``storage``, and others or None; see ``restore``.
    :param names: values for ``$name`` on this machine.
    :param directory: what ``$config_dir`` stands for; default the folder of the experiment's file.
    :param hosts: patterns of the names of those to use; default all.
    :param until_idle: end when nothing is left to run.
    :param as_worker: beside others, or as the one who runs it: what is given then counts for workers too.
    :returns: the exit code.
    :raises WindtunnelError: if it cannot be run here.
    """
    console = output.console()
    url = str(overrides["storage"])
    check_exists(url)

    async def work(console: Console) -> Ended:
        async with open_storage(url) as storage:
            text = await description_of(experiment_id, storage)
            loaded = await anyio.to_thread.run_sync(
                lambda: restore(
                    text, experiment_id=experiment_id, overrides=overrides, globals=names, directory=directory
                )
            )
            keep_secret(loaded.secrets)
            make_importable(loaded.origin.directory)
            # Runs are spread over hosts, so workers on different machines must not look like one.
            if as_worker and hosts is None and loaded.config.hosts is not None:
                logger.warning("%s", _UNDIVIDED)
            host = (as_worker and platform.node()) or "localhost"
            async with assemble(
                loaded, storage=storage, host=host, joins=as_worker, until_idle=until_idle, only=hosts
            ) as assembly:
                return await hold(assembly, loaded, console, output)

    return present(work, console, as_data=output.as_data)


async def description_of(experiment_id: str, storage: Storage) -> str:
    """The stored description of an experiment, for ``restore``.

    :raises ConfigError: if there is no such experiment, or nobody has told how it is run.
    """
    try:
        text = await (await storage.open_experiment(experiment_id)).stored_description()
    except NotFound as exc:
        raise ConfigError(f"{exc}; begin it with 'windtunnel run FILE'") from exc
    if text is None:
        raise ConfigError(
            f"how experiment {experiment_id!r} is run is not stored; run its file once more with "
            "'windtunnel run FILE', then workers can join"
        )
    return text
