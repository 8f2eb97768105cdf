"""Files that are written completely or not at all."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

# Suffix of a file that is still being written.
UNFINISHED = ".part"


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a new file beside `path` to write to, which replaces it afterwards.

    The file is then on the disk, with the permissions of the user's umask. If writing
    fails, the old file stays.
    """
    part = path.with_name(f"{path.name}.{secrets.token_hex(8)}{UNFINISHED}")
    try:
        part.open("xb").close()
        mode = part.stat().st_mode
        yield part
        part.chmod(mode)
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        with suppress(OSError):
            part.unlink()
