"""How fast the ops are, against what else one would run and against the machine: `make bench`, then docs/benchmarks.md.

A case is an op at a shape that some project really uses. Everything that can compute it (the contenders) and what
bounds it from below (the floors) take turns, round after round, in one process: a machine that drifts, drifts for all.
"""
