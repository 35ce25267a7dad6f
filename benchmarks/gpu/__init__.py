"""`make gpu`: builds, checks and measures all that only a GPU can show, in one command and at most nine minutes.

`runner` gives each stage a process and a time box and collects its rows in one JSON; `python -m benchmarks.gpu` says
how to call it. A rehearsal (--dry-run) runs every stage on the CPU, on tiny shapes.
"""
