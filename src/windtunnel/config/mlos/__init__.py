"""Configuration trees of mlos_bench, read and described in our own format.

``read_tree`` takes a command line, finds and reads the files that it names, and gives one description, which
then goes the way of every other. What was written for the other program is honoured or told, never ignored.
"""

from __future__ import annotations

from windtunnel.config.mlos.tree import Tree, read_tree

__all__ = ["Tree", "read_tree"]
