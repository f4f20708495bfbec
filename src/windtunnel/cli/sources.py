"""What a description is put together from, as the command line says it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Self

from windtunnel.cli.secrecy import keep_secret
from windtunnel.config.document import Document
from windtunnel.config.load import LoadedConfig, Origin, load, parse_global, read

__all__ = ["Sources"]

_NOTHING: Mapping[str, object] = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """What stands beside the file itself.

    :ivar names: values for ``$name`` from ``-g``.
    :ivar globals_files: files of such values.
    :ivar config_path: folders to look in for included files.
    """

    names: Mapping[str, object]
    globals_files: Sequence[Path]
    config_path: Sequence[Path]

    @classmethod
    def of(
        cls, names: Sequence[str] | None, files: Sequence[Path] | None, folders: Sequence[Path] | None
    ) -> Self:
        """From the options of a command.

        :raises ConfigError: if one of ``names`` is not ``NAME=VALUE``.
        """
        return cls(
            names=dict(parse_global(one) for one in names or ()),
            globals_files=tuple(files or ()),
            config_path=tuple(folders or ()),
        )

    def read(self, file: Path) -> tuple[Origin, Document]:
        """What they say together, before it is looked at.

        :raises ConfigError: if a file cannot be read.
        """
        return read(file, globals=self.names, globals_files=self.globals_files, config_path=self.config_path)

    def load(self, file: Path, overrides: Mapping[str, object] = _NOTHING) -> LoadedConfig:
        """What ``file`` and these say together.

        :raises ConfigError: see ``config.load``.
        """
        loaded = load(
            file,
            overrides=overrides,
            globals=self.names,
            globals_files=self.globals_files,
            config_path=self.config_path,
        )
        keep_secret(loaded.secrets)
        return loaded
