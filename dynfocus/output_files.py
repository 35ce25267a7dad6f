"""Write files whole or not at all, and find out that they cannot be written before the work for them begins."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dynfocus.errors import DynFocusError


@contextmanager
def whole_file(path: str | os.PathLike) -> Iterator[Path]:
    """A temporary sibling that takes the name `path` when the block ends, and vanishes if an exception ends it.

    Raises:
        DynFocusError: nothing can be written there; before the block is entered.
    """
    path = Path(path)
    try:
        if path.is_dir():
            raise IsADirectoryError(0, "it is a directory")
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem[:100]}-", suffix=path.suffix)
        os.close(descriptor)
    except (OSError, ValueError) as error:
        raise DynFocusError(f"{path}: cannot be written ({getattr(error, 'strerror', None) or error})") from error
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o666 & ~_umask())  # mkstemp makes files that only their owner may read.
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def check_directory(path: str | os.PathLike) -> None:
    """Raises DynFocusError unless files can be written into this directory or, if there is none, where it would be."""
    path = Path(path).absolute()
    try:
        nearest = next(place for place in (path, *path.parents) if place.exists())
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except (OSError, ValueError) as error:
        raise DynFocusError(f"{path}: cannot be written ({getattr(error, 'strerror', None) or error})") from error


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
