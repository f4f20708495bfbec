"""Hosts whose results are not to be trusted."""

from __future__ import annotations

import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

from windtunnel.model import OutlierHost

__all__ = ["outlier_hosts"]

_Run = tuple[int, int, str | None, float | None]
"""A ``Run``, or the same as it is stored."""

_Results = dict[int, dict[str, list[float]]]
"""config_id → host → scores."""

_LIMIT = 3.5
"""Modified z-scores beyond it are outliers; Iglewicz and Hoaglin (1993)."""

_LEAST = 3
"""Configurations on which a host must be compared with others."""

_ENOUGH = 9
"""More comparisons do not make a smaller difference matter: it would be lost in the noise of a single run."""

_MAD_TO_SIGMA = 1.482602218505602
_MEAN_TO_SIGMA = 1.2533141373155003


def outlier_hosts(runs: Iterable[_Run]) -> tuple[OutlierHost, ...]:
    """Hosts that give other results than others do for the same configurations, the furthest off first.

    A host's result for a configuration is compared with the median of the other hosts' results, relative to
    the larger of the two; the median of these differences is typical of the host. It stands out if that is
    further from the other hosts' than 3.5 robust standard deviations, of what is typical of hosts or of how
    surely it is known, whichever is more. It takes three configurations that ran elsewhere too.
    """
    by_config = _by_config(runs)
    outliers: list[OutlierHost] = []
    while (worst := _furthest_off(by_config)) is not None and abs(worst.deviation) > _LIMIT:
        outliers.append(worst)
        # Those that were mostly compared with it must not look odd because of it.
        for by_host in by_config.values():
            by_host.pop(worst.host, None)
    return tuple(sorted(outliers, key=lambda one: (-abs(one.deviation), one.host)))


def _furthest_off(by_config: _Results) -> OutlierHost | None:
    compared: defaultdict[str, list[float]] = defaultdict(list)
    counts: Counter[str] = Counter()
    for by_host in by_config.values():
        for host, difference in _differences(by_host):
            compared[host].append(difference)
            counts[host] += len(by_host[host])
    typical = {host: statistics.median(found) for host, found in compared.items()}
    if not typical:
        return None
    centre = statistics.median(typical.values())
    between = _robust_sigma([abs(difference - centre) for difference in typical.values()])
    noise = _robust_sigma([abs(difference - centre) for found in compared.values() for difference in found])
    found = (
        OutlierHost(host, counts[host], (typical[host] - centre) / sigma)
        for host, differences in compared.items()
        if len(differences) >= _LEAST
        and (sigma := max(between, noise * _MEAN_TO_SIGMA / math.sqrt(min(len(differences), _ENOUGH))))
    )
    return max(found, key=lambda one: (abs(one.deviation), one.host), default=None)


def _by_config(runs: Iterable[_Run]) -> _Results:
    found: _Results = {}
    for _, config_id, host, score in runs:
        if host is not None and score is not None:
            found.setdefault(config_id, {}).setdefault(host, []).append(score)
    return found


def _differences(by_host: Mapping[str, Sequence[float]]) -> Iterator[tuple[str, float]]:
    """How far each host's result is from those of the others, −2 to 2."""
    if len(by_host) < 2:
        return
    ordered = sorted((statistics.median(scores), host) for host, scores in by_host.items())
    values = [value for value, _ in ordered]
    for place, (value, host) in enumerate(ordered):
        reference = _median_without(values, place)
        larger = max(abs(value), abs(reference))
        yield host, value / larger - reference / larger if larger else 0.0


def _median_without(ordered: Sequence[float], place: int) -> float:
    """The median of all but one."""
    middle, odd = divmod(len(ordered) - 1, 2)
    low = middle if odd else middle - 1
    return ordered[low + (low >= place)] / 2 + ordered[middle + (middle >= place)] / 2


def _robust_sigma(distances: Sequence[float]) -> float:
    """The standard deviation of normal values, from their distances to their median."""
    # More than half of the values may be the same: then the mean distance tells more than the median.
    return statistics.median(distances) * _MAD_TO_SIGMA or statistics.fmean(distances) * _MEAN_TO_SIGMA
