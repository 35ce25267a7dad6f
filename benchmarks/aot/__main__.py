"""`make aot`: compiles every kernel configuration that ships for sm_80 and sm_90, and holds it to the budget.

Needs no GPU. The Tritons are those of the environment and of the folders given; each compiles in a process of its own.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.aot import budget, nvcc, table
from benchmarks.aot.rows import Row


def triton_rows(folder: Path | None, jobs: int, only: str) -> list[Row]:
    """What the Triton of `folder`, or of the environment, makes of the kernels."""
    paths = [str(folder)] if folder else []
    paths += [os.getcwd(), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    environment.pop("TRITON_INTERPRET", None)
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "rows.json"
        command = ["-m", "benchmarks.aot.compile", str(out), "--jobs", str(jobs), "--only", only]
        done = subprocess.run([sys.executable, *command], env=environment)
        if done.returncode != 0:
            sys.exit(f"benchmarks.aot: compiling with the Triton {folder or 'of this environment'} failed, see above")
        return [Row(**row | {"overflows": tuple(row["overflows"])}) for row in json.loads(out.read_text())]


def judge(rows: Sequence[Row], limits: budget.Budget) -> dict[Row, str]:
    """The verdict on each row; those that begin with BREACH fail."""
    verdicts = {}
    for row in rows:
        faults = row.broken_rules() + budget.breaches(row, limits)
        fine = "ok" if row.compiler in limits else "no budget for this compiler"
        verdicts[row] = f"BREACH: {'; '.join(faults)}" if faults else fine
    return verdicts


def report(verdicts: Mapping[Row, str], limits: budget.Budget, everything: bool) -> int:
    """Prints the table and what is wrong; the exit status."""
    print(table.text(list(verdicts), verdicts))
    breaches = [
        f"{row.name}, {row.arch}, {row.compiler}: {said}" for row, said in verdicts.items() if said.startswith("BREACH")
    ]
    breaches += budget.left_over(verdicts, limits) if everything else []
    compilers = ", ".join(dict.fromkeys(row.compiler for row in verdicts))
    print(f"\n{len(verdicts)} rows ({compilers}), {len(breaches)} breaches", *breaches, sep="\n")
    return 1 if breaches else 0


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.aot", description=__doc__)
    parser.add_argument("tritons", type=Path, nargs="*", help="folders with further Tritons")
    parser.add_argument("--cuda", type=Path, help="the CMake build folder whose CUDA objects are read")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), help="processes (one per core)")
    parser.add_argument("--only", default="", help="a part of the names of the calls to compile")
    parser.add_argument("--update", action="store_true", help="make what was compiled the budget")
    parser.add_argument("--page", type=Path, help="also write the page there")
    options = parser.parse_args(arguments)
    if options.only and options.update:
        parser.error("--update takes no --only: the budget has every configuration")

    rows = [row for folder in (None, *options.tritons) for row in triton_rows(folder, options.jobs, options.only)]
    if options.cuda:
        rows += nvcc.rows(options.cuda)
    limits = budget.load()
    if options.update:
        limits = budget.updated(rows, limits)
        budget.save(limits)
    if options.page:
        options.page.write_text(table.page(rows))
    return report(judge(rows, limits), limits, everything=not options.only)


if __name__ == "__main__":
    sys.exit(main())
