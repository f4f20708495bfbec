"""Four workers, killed and frozen at random: each trial has one outcome, and zombies are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.acceptance.chaos import soak


@pytest.mark.timeout(120)
def test_workers_that_are_killed_and_frozen_complete_each_trial_once(tmp_path: Path) -> None:
    done = soak(tmp_path, trials=400, seed=7)
    assert (done.accepted, done.distinct) == (400, 400), done
    assert done.leased == 0, done
    assert done.kills > 3, f"it was really struck: {done}"
    assert done.freezes > 3, f"it was really struck: {done}"
    assert done.actions.get("stale_refused", 0) > 0, f"somebody came too late and was refused: {done}"
    assert set(done.codes) == {0}, done
