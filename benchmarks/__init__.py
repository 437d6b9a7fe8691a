"""Throughput beside a named peer, measured in one run."""
