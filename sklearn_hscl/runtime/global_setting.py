"""Settings of the whole process that are changed temporarily."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

Value = TypeVar("Value")


class GlobalSetting(Generic[Value]):
    """A setting of the process with any number of concurrent users.

    The first user sets it and the last one restores it, whatever the order of their
    threads.

    Parameters
    ----------
    read : callable
        Returns the current value.
    write : callable
        Sets the value.
    """

    def __init__(self, read: Callable[[], Value], write: Callable[[Value], None]) -> None:
        self._read = read
        self._write = write
        self._lock = threading.Lock()
        self._n_users = 0

    @contextmanager
    def set_to(self, value: Value) -> Iterator[None]:
        """Set `value` inside the block; later users keep the value of the first."""
        with self._lock:
            if self._n_users == 0:
                self._before = self._read()
                self._write(value)
            self._n_users += 1
        try:
            yield
        finally:
            with self._lock:
                self._n_users -= 1
                if self._n_users == 0:
                    self._write(self._before)
