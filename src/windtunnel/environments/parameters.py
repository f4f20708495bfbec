"""Fixed parameters: ``const_args`` and ``required_args``, with ``$name`` in them replaced."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from windtunnel.errors import ConfigError
from windtunnel.options import REFERENCE, expand, referenced

__all__ = ["FixedParameters"]


class FixedParameters:
    """What ``const_args`` and ``required_args`` amount to under given globals.

    A global overrides a constant of the same name and is taken as it is. Constants may name globals, tunables
    and each other; one that is exactly ``$name`` takes that value with its type.
    """

    def __init__(self, const_args: Mapping[str, Any], required_args: Iterable[str]) -> None:
        self._constants = dict(const_args)
        self._names = {*const_args, *required_args}
        self._references = {key: found for key, value in const_args.items() if (found := _references(value))}
        self._needed = set().union(*(_references(value, needed=True) for value in const_args.values()))

    @property
    def references(self) -> set[str]:
        """Every name that a constant refers to, without a default, and that is not a constant."""
        return self._needed - self._constants.keys() - {""}

    def values(
        self, given: Mapping[str, Any], tunables: Mapping[str, Any], *, missing_ok: bool = False
    ) -> dict[str, Any]:
        """The parameters by name.

        :param given: globals; only those that are declared become parameters.
        :param missing_ok: leave names that are not known yet as they stand.
        :raises ConfigError: if a required one is not given, a constant names something unknown, or constants
            name each other in a circle.
        """
        if not self._names:
            return {}
        fixed = {**self._constants, **{name: given[name] for name in self._names if name in given}}
        if len(fixed) < len(self._names) and not missing_ok and (absent := self._names - {*fixed, *tunables}):
            names = ", ".join(map(repr, sorted(absent)))
            raise ConfigError(f"no value was given for {names}", path=("config", "required_args"))
        late = self._references.keys() - given.keys()
        if late:
            plain = {name: value for name, value in fixed.items() if name not in late}
            known = {**given, **plain, **tunables}
            fixed.update({name: self._resolve(name, late, known, (), missing_ok) for name in late})
        return fixed

    def _resolve(
        self, name: str, late: set[str], known: Mapping[str, Any], way: tuple[str, ...], missing_ok: bool
    ) -> Any:
        if name in way:
            circle = " → ".join((*way, name))
            raise ConfigError(
                f"constants name each other in a circle: {circle}", path=("config", "const_args", name)
            )
        names = dict(known)
        for other in (self._references[name] & late) - {name}:
            names[other] = self._resolve(other, late, known, (*way, name), missing_ok)
        try:
            return _replaced(self._constants[name], names, missing_ok)
        except ConfigError as exc:
            raise exc.within("config", "const_args", name) from None


def _references(value: object, *, needed: bool = False) -> set[str]:
    """The names in ``value``; an empty one for ``$$``.

    :param needed: only those without a default.
    """
    if isinstance(value, str):
        found = REFERENCE.finditer(value)
        return {match["name"] or "" for match in found if not needed or match["default"] is None}
    inner = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
    return set().union(*(_references(one, needed=needed) for one in inner))


def _replaced(value: Any, names: Mapping[str, Any], missing_ok: bool) -> Any:
    if isinstance(value, str):
        whole = REFERENCE.fullmatch(value)
        if whole and whole["name"] and (whole["name"] in names or whole["default"] is not None):
            return referenced(whole, names)
        return expand(value, names, missing_ok=missing_ok)
    if isinstance(value, Mapping):
        return {key: _replaced(inner, names, missing_ok) for key, inner in value.items()}
    return [_replaced(inner, names, missing_ok) for inner in value] if isinstance(value, list) else value
