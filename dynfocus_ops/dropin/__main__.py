"""`python -m dynfocus_ops.dropin --dry-run PATH`: the copies in a source tree that `patch` would look at."""

import argparse
import sys
from pathlib import Path

from dynfocus_ops.dropin.scanning import scan


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m dynfocus_ops.dropin", description=__doc__)
    parser.add_argument(
        "--dry-run", type=Path, required=True, metavar="PATH", help="a file or folder; read, never imported"
    )
    path = parser.parse_args(arguments).dry_run
    if not path.exists():
        print(f"{path}: there is no such file or folder", file=sys.stderr)
        return 2
    found = scan(path)
    print("\n".join(map(str, found)) or f"{path}: no candidates")
    return 0


if __name__ == "__main__":
    sys.exit(main())
