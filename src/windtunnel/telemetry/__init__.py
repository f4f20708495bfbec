"""From running trials to the database and to whoever watches."""

from windtunnel.telemetry.recorder import Recorder, TrialSink

__all__ = ["Recorder", "TrialSink"]
