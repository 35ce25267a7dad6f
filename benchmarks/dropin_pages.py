"""`python -m benchmarks.dropin_pages RUN.json`: the tables of docs/dropin from the JSON of `make bench`."""

import argparse
import re
import sys
from pathlib import Path

from benchmarks.cases import read_as
from benchmarks.report import facts
from benchmarks.results import OURS, CaseResult, RunResult, load
from benchmarks.tables import NONE, duration, size, table, times

PAGES = Path(__file__).parents[1] / "docs" / "dropin"
PLACE = re.compile(r"(<!-- measured: (\w+) -->\n).*?(<!-- /measured -->)", re.DOTALL)
HEAD = ("use", "shape", "theirs", "ours", "ours is", "memory, theirs", "ours")


def fill(text: str, run: RunResult) -> str:
    """The page with each place for measured numbers filled from the run; one of which it has nothing stays."""

    def measured(place: re.Match[str]) -> str:
        results = [result for result in run.cases.values() if page_of(result) == place[2] and OURS in result.seconds]
        return f"{place[1]}{section(results, run)}\n{place[3]}" if results else place[0]

    return PLACE.sub(measured, text)


def section(results: list[CaseResult], run: RunResult) -> str:
    note = (
        "All on one thread. Medians of rounds in turns, both with their noise; memory is what a call takes beyond "
        "inputs and results."
    )
    return f"{facts(run)}\n\n{table(HEAD, [row for result in results for row in rows(result)])}\n\n{note}"


def rows(result: CaseResult) -> list[list[str]]:
    theirs = result.fastest("research")
    lines = []
    for name in (name for name in result.contenders if name.startswith(OURS)):
        use = result.used_by + name.removeprefix(OURS)
        lines.append(
            [
                use,
                read_as(result.case.split("-", 1)[1]),
                NONE if theirs is None else duration(result.median(theirs)),
                f"**{duration(result.median(name))}**",
                NONE if theirs is None else times(result.speedup(theirs, name)),
                memory(result, theirs),
                memory(result, name),
            ]
        )
    return lines


def memory(result: CaseResult, name: str | None) -> str:
    peak = None if name is None else result.peak_extra_bytes(name)
    return NONE if peak is None else size(peak)


def page_of(result: CaseResult) -> str | None:
    return result.case.split("-")[0] if result.op.startswith(("dropin", "token_reduction")) else None


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.dropin_pages", description=__doc__)
    parser.add_argument("json", type=Path, help="of a run of make bench")
    parser.add_argument("--pages", type=Path, default=PAGES, help="folder of the pages (docs/dropin)")
    options = parser.parse_args(arguments)
    try:
        run = load(options.json)
    except (OSError, ValueError) as error:
        sys.exit(f"benchmarks.dropin_pages: {error}")
    for page in sorted(options.pages.glob("*.md")):
        text = page.read_text()
        filled = fill(text, run)
        if filled != text:
            page.write_text(filled)
            print(page)


if __name__ == "__main__":
    main()
