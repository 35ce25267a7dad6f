"""Triton decides when a kernel is defined whether it is interpreted, so these tests need a process of their own."""

from dynfocus_ops.backends import interpreted

if not interpreted():
    collect_ignore_glob = ["test_*.py"]
