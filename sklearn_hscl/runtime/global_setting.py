"""Settings that belong to the whole process, changed while somebody needs them."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

Value = TypeVar("Value")


class Switch(Generic[Value]):
    """A setting of the process with any number of users at a time.

    The first user sets it and the last one restores what it was, in whichever order
    their threads come and go.

    Parameters
    ----------
    read : callable
        Returns the present value.
    write : callable
        Sets the value.
    """

    def __init__(self, read: Callable[[], Value], write: Callable[[Value], None]) -> None:
        self._read = read
        self._write = write
        self._lock = threading.Lock()
        self._n_users = 0

    @contextmanager
    def turned(self, value: Value) -> Iterator[None]:
        """Have `value` inside the block; whoever comes second joins the first."""
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
