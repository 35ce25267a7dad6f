"""The checked-in budget: what every configuration may take, per compiler and architecture."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.aot.rows import Row

FILE = Path(__file__).with_name("budget.json")
LIMITS = ("registers", "stack", "shared", "local")  # at most
Budget = dict[str, dict[str, dict[str, dict[str, Any]]]]  # compiler, configuration, architecture, figure


def load(file: Path = FILE) -> Budget:
    budget: Budget = json.loads(file.read_text())
    return budget


def entry(row: Row) -> dict[str, Any]:
    return {figure: getattr(row, figure) for figure in LIMITS} | {"matrix": row.matrix, "wide": row.wide > 0}


def breaches(row: Row, budget: Budget) -> list[str]:
    """What is worse than the budget; nothing for a compiler that has none."""
    if row.compiler not in budget:
        return []
    allowed = budget[row.compiler].get(row.name, {}).get(row.arch)
    if allowed is None:
        return ["no entry in the budget"]
    taken = entry(row)
    worse = [f"{name} {taken[name]}, budget {allowed[name]}" for name in LIMITS if taken[name] > allowed[name]]
    if taken["matrix"] != allowed["matrix"]:
        worse.append(f"matrix instructions {taken['matrix'] or 'none'}, budget {allowed['matrix'] or 'none'}")
    if allowed["wide"] and not taken["wide"]:
        worse.append("no 16-byte access of global memory, the budget has them")
    return worse


def left_over(rows: Iterable[Row], budget: Budget) -> list[str]:
    """Entries, of compilers that were run, for what no call launches any more."""
    rows = list(rows)
    shipped = {(row.compiler, row.name, row.arch) for row in rows}
    compilers = {row.compiler for row in rows}
    return [
        f"{compiler}, {name}, {arch}: in the budget, but nothing launches it"
        for compiler, names in budget.items()
        if compiler in compilers
        for name, archs in names.items()
        for arch in archs
        if (compiler, name, arch) not in shipped
    ]


def updated(rows: Iterable[Row], budget: Budget) -> Budget:
    """The budget with what the compilers that were run made now."""
    rows = list(rows)
    new: Budget = budget | {row.compiler: {} for row in rows}
    for row in rows:
        new[row.compiler].setdefault(row.name, {})[row.arch] = entry(row)
    return dict(sorted(new.items()))


def save(budget: Budget, file: Path = FILE) -> None:
    """A line per configuration and architecture, so that a change reads as one in review."""
    compilers = []
    for compiler, names in budget.items():
        configurations = []
        for name, archs in names.items():
            lines = [f"      {json.dumps(arch)}: {json.dumps(figures)}" for arch, figures in archs.items()]
            configurations.append(f"    {json.dumps(name, ensure_ascii=False)}: {{\n" + ",\n".join(lines) + "\n    }")
        compilers.append(f"  {json.dumps(compiler)}: {{\n" + ",\n".join(configurations) + "\n  }")
    file.write_text("{\n" + ",\n".join(compilers) + "\n}\n")
