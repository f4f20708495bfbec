"""``windtunnel load``: from a URL or a file, and the options, to what is to be done."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from windtunnel.concurrency import first_error
from windtunnel.config.document import FORMATS, Document, read_document
from windtunnel.config.generators import Generators, find_generators
from windtunnel.errors import ConfigError
from windtunnel.loadgen.generator import ThisMachine

__all__ = ["Order", "order_of"]

_PLANNED = ("rate", "users", "duration", "warmup", "connections", "timeout", "workers", "seed")
_OPEN = ("rate", "users", "profile", "trace")


class Order(NamedTuple):
    """What is to be done.

    :ivar plan: see ``LoadPlan``.
    :ivar directory: where its files are.
    :ivar document: the file it is in; None if it is in none.
    """

    plan: Mapping[str, Any]
    directory: Path
    document: Document | None
    generators: Generators = Generators([ThisMachine()])

    @contextlib.contextmanager
    def located(self) -> Iterator[None]:
        """Errors of the block say where in the file they are, and come without a group."""
        try:
            yield
        except ExceptionGroup as group:
            raise self._located(first_error(group)) from None
        except ConfigError as error:
            raise self._located(error) from None

    def _located(self, error: BaseException) -> BaseException:
        if self.document is not None and isinstance(error, ConfigError) and error.path:
            return self.document.locate(error)
        return error


def order_of(options: Mapping[str, Any]) -> Order:
    """What the options of the command say, over what the file does.

    :raises ConfigError: if that cannot be read.
    """
    order = _order(options["target"])
    given = {name: options[name] for name in _PLANNED if options[name] is not None}
    given |= {"arrivals": "poisson"} if options["poisson"] else {}
    given |= {"insecure": True} if options["insecure"] else {}
    given |= {"confirmed": True} if options["yes"] else {}
    plan = _overridden(order.plan, given, options["profile"], options["header"] or ())
    hosts = plan.pop("generators", None)
    if options["generators"] is not None:
        return order._replace(plan=plan, generators=find_generators(str(options["generators"]), Path()))
    if hosts is None:
        return order._replace(plan=plan)
    with order.located():
        return order._replace(plan=plan, generators=find_generators(hosts, order.directory))


def _order(target: str) -> Order:
    if "://" in target:
        return Order({"url": target}, Path.cwd(), None)
    path = Path(target)
    if path.suffix == ".py":
        return Order(_python_plan(path), path.parent.absolute(), None)
    if path.suffix in FORMATS:
        document = read_document(path)
        return Order(document.data, path.parent.absolute(), document)
    raise ConfigError(
        f"expected a URL such as http://127.0.0.1:8080/, a plan or a Python file, found {target!r}"
    )


def _python_plan(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as exc:
        raise ConfigError(f"cannot read {str(path)!r}: {exc.strerror}") from None
    shared = {"resource": f"{path.name}:resource"} if "def resource(" in text else {}
    return {"scenarios": [{"function": f"{path.name}:load"}], **shared}


def _overridden(
    plan: Mapping[str, Any], given: Mapping[str, Any], profile: Path | None, headers: Sequence[str]
) -> dict[str, Any]:
    loads = {name: value for name, value in given.items() if name in _OPEN}
    if profile is not None:
        loads |= _profile(profile)
    kept = {name: value for name, value in plan.items() if not loads or name not in _OPEN}
    merged = {**kept, **given, **loads}
    if headers:
        merged["headers"] = {**plan.get("headers", {}), **dict(map(_header, headers))}
    return merged


def _profile(path: Path) -> dict[str, Any]:
    if path.suffix not in FORMATS:
        return {"trace": str(path.absolute())}
    found = read_document(path).data
    if "profile" not in found:
        raise ConfigError("expected profile: a list of {rate, to, for}", source=str(path))
    return {"profile": found["profile"]}


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or not name.strip():
        raise ConfigError(f"--header: expected 'Name: value', found {text!r}")
    return name.strip(), value.strip()
