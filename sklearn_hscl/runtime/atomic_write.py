"""Files that are written completely or not at all."""

import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

try:
    import fcntl
except ModuleNotFoundError:  # Windows, where a file cannot be removed while it is open
    fcntl = None  # type: ignore[assignment]

# Suffix of a file that is still being written.
_UNFINISHED = ".part"


@contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """Yield a new file beside `path` to write to, which replaces it afterwards.

    The file is then on the disk. If `path` is a symbolic link, the file that it points to
    is replaced. The permissions are those of the earlier file, or of the user's umask. If
    writing fails, the earlier file stays. Unfinished files of killed processes are
    removed.
    """
    target = Path(os.path.realpath(path))
    _remove_leftovers(target)
    part, file = _create_part(target)
    try:
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            if fcntl is None:
                file.close()
            part.replace(target)  # still locked: no other process takes it for a leftover
    finally:
        with suppress(OSError):
            part.unlink()


def _create_part(target: Path) -> tuple[Path, BinaryIO]:
    """Create a locked file beside `target`, readable by those who can read `target`."""
    earlier = stat.S_IMODE(target.stat().st_mode) if target.exists() else None
    part = target.with_name(f"{target.name}.{secrets.token_hex(8)}{_UNFINISHED}")
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    file = os.fdopen(os.open(part, flags, 0o666 if earlier is None else earlier), "w+b")
    if earlier is not None:
        part.chmod(earlier)  # without the umask
    if _lock(file, wait=True) and not part.exists():  # removed before it was locked
        file.close()
        return _create_part(target)
    return part, file


def _remove_leftovers(target: Path) -> None:
    """Remove the unfinished files of killed processes, which nobody locks any more."""
    name = re.compile(rf"{re.escape(target.name)}\.[0-9a-f]+{re.escape(_UNFINISHED)}")
    with suppress(OSError):
        for path in target.parent.iterdir():
            if name.fullmatch(path.name):
                _remove_unlocked(path)


def _remove_unlocked(path: Path) -> None:
    with suppress(OSError), path.open("rb") as file:
        if fcntl is None:
            file.close()
        if fcntl is None or _lock(file, wait=False):
            path.unlink()


def _lock(file: BinaryIO, *, wait: bool) -> bool:
    """Lock a file until it is closed; return whether that was possible."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except (AttributeError, OSError):  # locked by another process, or no locks here
        return False
    return True
