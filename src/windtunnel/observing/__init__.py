"""A running scheduler for monitoring systems: metrics for Prometheus, spans for OpenTelemetry.

Each module needs the library of its extra, ``windtunnel[prometheus]`` or ``windtunnel[otel]``. They only look
on: at ``Scheduler.snapshot()`` and ``Scheduler.events()``.
"""
