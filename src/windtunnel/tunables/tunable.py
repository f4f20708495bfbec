"""One tunable: its type, its domain and its default. A definition only; values live in ``TunableGroups``."""

from __future__ import annotations

import math
import re
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

from windtunnel.errors import ConfigError, TunableError
from windtunnel.options import parse_options, shown
from windtunnel.tunables.coerce import to_number, to_text
from windtunnel.tunables.distribution import Distribution, Uniform, make_distribution
from windtunnel.tunables.form import TunableOptions

__all__ = ["Number", "Tunable", "TunableValue", "check_name"]

Number = int | float
TunableValue = int | float | str
"""The value of a tunable: an int, a float, or for a categorical one of its texts."""

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
_MAX_BINS = 100_000
_LISTED = 20
_NUMERIC_ONLY = (
    "range",
    "log",
    "quantization_bins",
    "special",
    "special_weights",
    "range_weight",
    "distribution",
)
_UNIFORM = Uniform()


@dataclass(frozen=True, slots=True, kw_only=True)
class Tunable:
    """A parameter that may be varied: what values it can take, how they are spread, and its default.

    Values that are given as text, or as another number type without loss, are converted.

    :param type: ``int``, ``float`` or ``categorical``.
    :param default: must be in the domain.
    :param values: the texts of a categorical, all different; numbers become their text, booleans ``true`` and
        ``false``.
    :param values_weights: how likely each of ``values`` is when drawn; default all equal.
    :param range: lowest and highest value of an int or float, both included.
    :param log: the logarithm is spread evenly instead of the value; needs a range above 0.
    :param quantization_bins: propose only so many evenly spaced values of the range; ``check`` allows the
        others too.
    :param special: further values with a meaning of their own, inside the range or outside.
    :param special_weights: how likely each special value is, against ``range_weight`` for the whole range;
        default one half for the range, the other half shared equally by the special values.
    :param distribution: how draws are spread over the range; default uniform.
    :param meta: anything scripts should know: scalars, or lists of them.
    :param when: other tunable → the values that make this one active, one or several; all of them must. What
        is not active has its default. Default always active.
    :raises TunableError: if the parts do not make a valid definition.
    """

    name: str
    type: Literal["int", "float", "categorical"]
    default: TunableValue
    values: tuple[str, ...] = ()
    values_weights: tuple[float, ...] = ()
    range: tuple[Number, Number] | None = None
    log: bool = False
    quantization_bins: int | None = None
    special: tuple[Number, ...] = ()
    special_weights: tuple[float, ...] = ()
    range_weight: float | None = None
    distribution: Distribution = _UNIFORM
    description: str = ""
    meta: Mapping[str, Any] = field(default_factory=dict, hash=False)
    when: Mapping[str, tuple[TunableValue, ...]] = field(default_factory=dict, hash=False)
    _grid: tuple[Number, ...] = field(default=(), init=False, repr=False, compare=False)

    @classmethod
    def parse(cls, name: str, config: Mapping[str, Any]) -> Tunable:
        """A tunable from its form in a config file: ``{type: int, range: [64, 65536], default: 2048}``.

        :raises TunableError: if it is not a valid definition; its path leads to the wrong part of ``config``.
        """
        try:
            options = parse_options(TunableOptions, config)
        except ConfigError as exc:
            raise TunableError(f"tunable {name!r}: {exc.message}", path=exc.path) from None
        parts: dict[str, Any] = {key: getattr(options, key) for key in options.model_fields_set}
        if (given := options.distribution) is not None:
            try:
                parts["distribution"] = make_distribution(given.type, given.params)
            except ValueError as exc:
                raise TunableError(f"tunable {name!r}: {exc}", path=("distribution",)) from None
        return cls(
            name=name, **{key: value for key, value in parts.items() if value is not None or key == "default"}
        )

    def __post_init__(self) -> None:
        check_name("tunable", self.name)
        for key in ("values", "values_weights", "special", "special_weights"):
            self._set(key, tuple(getattr(self, key)))
        if self.type == "categorical":
            self._prepare_categorical()
        elif self.type in ("int", "float"):
            self._prepare_range()
            self._prepare_special()
        else:
            raise self._wrong("type", f"expected 'int', 'float' or 'categorical', found {self.type!r}")
        self._set("meta", MappingProxyType({key: self._frozen(value) for key, value in self.meta.items()}))
        self._set("when", MappingProxyType({key: self._allowed(key, self.when[key]) for key in self.when}))
        try:
            self._set("default", self._coerced(self.default))
        except ValueError as exc:
            raise self._wrong("default", f"default {self.default!r} {exc}; expected {self.domain}") from None

    def __reduce__(self) -> tuple[object, ...]:
        return (type(self).parse, (self.name, self.definition()))

    # What it allows

    def check(self, value: object) -> TunableValue:
        """``value`` as this tunable holds it: an int, a float, or one of the categorical's texts.

        :raises TunableError: if it is not in the domain.
        """
        try:
            return self._coerced(value)
        except ValueError as exc:
            raise TunableError(f"tunable {self.name!r}: {value!r} {exc}; expected {self.domain}") from None

    def is_special(self, value: object) -> bool:
        """Whether ``value`` is one of the special values."""
        return value in self.special

    def in_range(self, value: TunableValue) -> bool:
        """Whether ``value`` is a number within the range; False for a categorical."""
        return (
            self.range is not None and not isinstance(value, str) and self.range[0] <= value <= self.range[1]
        )

    @property
    def is_categorical(self) -> bool:
        return self.range is None

    @property
    def domain(self) -> str:
        """The allowed values in words, such as ``int in [64, 65536], log``."""
        if self.range is None:
            more = f", … ({len(self.values)} in all)" if len(self.values) > _LISTED else ""
            return f"one of {', '.join(map(repr, self.values[:_LISTED]))}{more}"
        special = f", or special {', '.join(map(repr, self.special))}" if self.special else ""
        return f"{self.type} in [{self.range[0]!r}, {self.range[1]!r}]{', log' if self.log else ''}{special}"

    # What may be proposed for it

    @property
    def cardinality(self) -> int | None:
        """How many values can be proposed, special ones apart; None for a float that is not quantized."""
        if self.range is None:
            return len(self.values)
        if self._grid:
            return len(self._grid)
        return int(self.range[1] - self.range[0]) + 1 if self.type == "int" else None

    @property
    def quantized_values(self) -> Sequence[TunableValue] | None:
        """The values ``cardinality`` counts, in order; None for a float that is not quantized."""
        if self.range is None:
            return self.values
        if self._grid:
            return self._grid
        return range(int(self.range[0]), int(self.range[1]) + 1) if self.type == "int" else None

    def quantize(self, value: TunableValue) -> TunableValue:
        """The proposable value nearest to ``value`` (the lower of two), which itself is returned if special.

        :raises TunableError: if ``value`` is not in the domain.
        """
        checked = self.check(value)
        if not self._grid or isinstance(checked, str) or checked in self.special:
            return checked
        index = bisect_left(self._grid, checked)
        around = self._grid[max(index - 1, 0) : index + 1] or self._grid[-1:]
        place = math.log if self.log else float
        return min(around, key=lambda point: abs(place(point) - place(checked)))

    def spaced(self, points: int) -> tuple[Number, ...]:
        """Up to ``points`` different values from one end of the range to the other, evenly or log-evenly.

        :param points: at least 2.
        :raises TunableError: for a categorical.
        """
        if self.range is None:
            raise TunableError(f"tunable {self.name!r} has no range; it is {self.domain}")
        low, high = self.range
        steps = points - 1
        if self.log:
            start, span = math.log(low), math.log(high) - math.log(low)
            inner: list[Number] = [math.exp(start + span * i / steps) for i in range(1, steps)]
            if self.type == "int":
                inner = [round(value) for value in inner]
        elif self.type == "int":
            # Integers throughout: a float would lose digits of wide ranges.
            width = int(high - low)
            inner = [int(low) + (2 * i * width + steps) // (2 * steps) for i in range(1, steps)]
        else:
            inner = [low + (high - low) * (i / steps) for i in range(1, steps)]
        return tuple(dict.fromkeys((low, *(min(max(value, low), high) for value in inner), high)))

    @property
    def special_shares(self) -> tuple[float, ...]:
        """How likely each special value is; what is missing to 1 belongs to the range."""
        if self.special_weights and self.range_weight is not None:
            total = sum(self.special_weights) + self.range_weight
            return tuple(weight / total for weight in self.special_weights)
        return (0.5 / len(self.special),) * len(self.special) if self.special else ()

    def definition(self) -> dict[str, Any]:
        """The form ``parse`` takes, made of JSON types, without what is at its default."""
        result: dict[str, Any] = {"type": self.type, "default": self.default}
        for key in ("values", "values_weights", "range", "special", "special_weights"):
            if given := getattr(self, key):
                result[key] = list(given)
        for key in ("log", "quantization_bins", "description"):
            if given := getattr(self, key):
                result[key] = given
        if self.range_weight is not None:
            result["range_weight"] = self.range_weight
        if self.distribution != _UNIFORM:
            params = {name: getattr(self.distribution, name) for name in self.distribution.__slots__}
            result["distribution"] = {"type": self.distribution.kind, "params": params}
        if self.meta:
            result["meta"] = {key: list(v) if isinstance(v, tuple) else v for key, v in self.meta.items()}
        if self.when:
            result["when"] = {name: list(allowed) for name, allowed in self.when.items()}
        return result

    # How it is checked when it is made

    def _prepare_categorical(self) -> None:
        for key in _NUMERIC_ONLY:
            if getattr(self, key) != type(self).__dataclass_fields__[key].default:
                raise self._wrong(key, f"a categorical takes no {key!r}; it belongs to int and float")
        if not self.values:
            raise self._wrong("values", "a categorical needs 'values', a list of at least one text")
        values = tuple(to_text(value) for value in self.values)
        if None in self.values:
            raise self._wrong("values", "null cannot be a value; quote it to mean the text 'null'")
        if twice := [value for index, value in enumerate(values) if value in values[:index]]:
            raise self._wrong(
                "values", f"the value {twice[0]!r} is listed twice; values are compared as texts"
            )
        self._set("values", values)
        self._set("values_weights", self._weights("values_weights", len(values)))
        if self.values_weights and not sum(self.values_weights) > 0:
            raise self._wrong(
                "values_weights", f"one weight must be above 0, found {list(self.values_weights)!r}"
            )

    def _prepare_range(self) -> None:
        for key in ("values", "values_weights"):
            if getattr(self, key):
                raise self._wrong(key, f"{self.type} takes no {key!r}; it belongs to categorical")
        if self.range is None or len(self.range) != 2:
            raise self._wrong("range", f"{self.type} needs a 'range' of two numbers, found {self.range!r}")
        low, high = (self._part("range", end) for end in self.range)
        if not low < high:
            raise self._wrong("range", f"the range must rise, found [{low!r}, {high!r}]")
        if not math.isfinite(high - low) or (self.type == "int" and max(-2 * low, high) >= 2**64):
            raise self._wrong("range", f"the range is too wide for 64 bits, found [{low!r}, {high!r}]")
        if self.log and low <= 0:
            raise self._wrong("range", f"log needs a range above 0, found [{low!r}, {high!r}]")
        self._set("range", (low, high))
        if self.quantization_bins is not None:
            self._set("_grid", self._make_grid(self.quantization_bins))

    def _make_grid(self, bins: int) -> tuple[Number, ...]:
        most = min(self.cardinality or _MAX_BINS, _MAX_BINS)
        if isinstance(bins, bool) or not isinstance(bins, int) or not 2 <= bins <= most:
            raise self._wrong(
                "quantization_bins", f"expected a whole number from 2 to {most}, found {bins!r}"
            )
        return self.spaced(bins)

    def _prepare_special(self) -> None:
        special = tuple(self._part("special", value) for value in self.special)
        if len(set(special)) != len(special):
            raise self._wrong("special", f"special values must differ, found {list(special)!r}")
        self._set("special", special)
        weights = self._weights("special_weights", len(special))
        self._set("special_weights", weights)
        share = self.range_weight
        if bool(weights) != (share is not None):
            missing = "range_weight" if weights else "special_weights"
            raise self._wrong(missing, "give both 'special_weights' and 'range_weight', or none of them")
        if share is not None and not (share >= 0 and 0 < share + sum(weights) < math.inf):
            raise self._wrong("range_weight", f"weights must be 0 or more and not all 0, found {share!r}")

    def _weights(self, key: str, count: int) -> tuple[float, ...]:
        weights: Sequence[float] = getattr(self, key)
        if not weights:
            return ()
        if len(weights) != count:
            raise self._wrong(key, f"expected {count} weights, one for each value, found {len(weights)}")
        if not all(0 <= weight < math.inf for weight in weights):
            raise self._wrong(key, f"weights must be 0 or more, found {list(weights)!r}")
        return tuple(map(float, weights))

    def _part(self, key: str, value: object) -> Number:
        try:
            return to_number(value, self.type)
        except ValueError as exc:
            raise self._wrong(key, f"{value!r} {exc}; expected {self.type}") from None

    def _frozen(self, value: Any) -> Any:
        if isinstance(value, list | tuple):
            return tuple(self._frozen(item) for item in value)
        if value is None or isinstance(value, str | int | float):
            return value
        raise self._wrong("meta", f"expected scalars or lists of them, found {value!r}")

    def _allowed(self, name: str, given: Any) -> tuple[TunableValue, ...]:
        several = tuple(given) if isinstance(given, list | tuple) else (given,)
        if not several or not all(isinstance(value, str | int | float) for value in several):
            message = f"expected a value of {name!r}, or a list of them, found {shown(given)}"
            raise TunableError(f"tunable {self.name!r}: {message}", path=("when", name))
        return tuple(to_text(value) if isinstance(value, bool) else value for value in several)

    def _coerced(self, value: object) -> TunableValue:
        if self.range is None:
            text = to_text(value)
            if text not in self.values:
                raise ValueError("is not among its values")
            return self.values[self.values.index(text)]
        number = to_number(value, self.type)
        if not self.range[0] <= number <= self.range[1] and number not in self.special:
            raise ValueError("is out of range")
        return number

    def _set(self, key: str, value: object) -> None:
        object.__setattr__(self, key, value)

    def _wrong(self, key: str, message: str) -> TunableError:
        return TunableError(f"tunable {self.name!r}: {message}", path=(key,))


def check_name(what: str, name: object) -> None:
    """Names must be usable in files, shells and reports.

    :raises TunableError: if ``name`` is not one.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise TunableError(
            f"{name!r} cannot name a {what}; expected a letter or '_', then letters, digits, '_', '.' or '-'"
        )
