"""windtunnel puts systems under test."""
