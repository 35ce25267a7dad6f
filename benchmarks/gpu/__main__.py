"""`python -m benchmarks.gpu [--budget 540] [--out DIR] [--dry-run] [--wheels DIR]`, in the source tree (make gpu).

Needs torch, triton, numpy, pytest and safetensors; cmake, ninja and nvcc for the CUDA kernels; transformers for the
model. Ends with 1 if anything was wrong, 2 if it could not begin.
"""

import argparse
import importlib
import sys
import zipfile
from pathlib import Path

from benchmarks.gpu import document, runner
from benchmarks.gpu.stage import Stage


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--budget", type=float, default=540, help="seconds for all of it (540)")
    parser.add_argument(
        "--out", type=Path, default=Path("build/gpu"), help="folder of the JSON and the logs (build/gpu)"
    )
    parser.add_argument("--dry-run", action="store_true", help="rehearse on the CPU, on tiny shapes: measures nothing")
    parser.add_argument(
        "--wheels", type=Path, help="folder of wheels to unpack and use, where nothing can be installed"
    )
    parser.add_argument("--only", nargs="+", choices=[box.name for box in runner.BOXES], help="these stages alone")
    parser.add_argument("--stage", help=argparse.SUPPRESS)  # a stage's own process
    options = parser.parse_args(arguments)
    if options.stage:
        importlib.import_module(f"benchmarks.gpu.{options.stage}").run(Stage.given(options.stage))
        return 0
    boxes = [box for box in runner.BOXES if not options.only or box.name in (*options.only, "facts")]
    try:
        paths = unpacked(options.wheels, options.out / "site") if options.wheels else ()
        rows = runner.run(runner.Settings(options.budget, options.out, options.dry_run, boxes, paths))
    except ValueError as error:
        print(f"benchmarks.gpu: {error}", file=sys.stderr)
        return 2
    from benchmarks.gpu.tables import summary

    text = summary(rows, options.dry_run)
    document.path_in(options.out, options.dry_run).with_suffix(".md").write_text(text + "\n")
    print(text)
    return 1 if document.failed(rows) else 0


def unpacked(wheels: Path, site: Path) -> tuple[Path, ...]:
    """Unpacks all wheels of a folder into `site`, without pip.

    Raises:
        ValueError: if there is none.
    """
    found = sorted(wheels.glob("*.whl"))
    if not found:
        raise ValueError(f"wheels is {wheels}, it must be a folder with .whl files in it")
    for wheel in found:
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(site)
    return (site.resolve(),)


if __name__ == "__main__":
    sys.exit(main())
