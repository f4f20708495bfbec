"""What a tree asks for and does not get, or gets otherwise."""

from __future__ import annotations

from dataclasses import dataclass, field

from windtunnel.config.mlos.nodes import Node
from windtunnel.errors import ConfigError

__all__ = ["Remarks"]


@dataclass(slots=True)
class Remarks:
    """Collected while a tree is read, to be told before anything runs.

    :ivar refused: cannot be honoured; the tree is not run.
    :ivar noted: is done otherwise.
    :ivar lacking: can be honoured only where something is installed that is not installed here.
    """

    refused: list[ConfigError] = field(default_factory=list)
    noted: list[ConfigError] = field(default_factory=list)
    lacking: list[ConfigError] = field(default_factory=list)

    def refuse(self, node: Node, message: str) -> None:
        """What was written here cannot be honoured."""
        _add(self.refused, node.error(message))

    def lack(self, node: Node, message: str) -> None:
        """What was written here needs something that is not installed."""
        _add(self.lacking, node.error(message))

    def note(self, node: Node, message: str) -> None:
        """What was written here is done otherwise. A message that was noted before is not noted again."""
        if all(one.message != message for one in self.noted):
            _add(self.noted, node.error(message))


def _add(errors: list[ConfigError], error: ConfigError) -> None:
    if str(error) not in map(str, errors):
        errors.append(error)
