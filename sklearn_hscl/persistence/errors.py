"""What is raised where a stored embedder cannot be used."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class BundleError(ValueError):
    """A file, or what else an embedder was stored in, that cannot be used.

    The message names the file and what is wrong with it.
    """


# What wrong facts and arrays can raise where no check foresaw them.
_UNFORESEEN = (
    ArithmeticError,
    AttributeError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
)


@contextmanager
def naming(source: Any) -> Iterator[None]:
    """Name the source in what is raised about it, all of which is a BundleError."""
    try:
        yield
    except BundleError as error:
        raise BundleError(f"{source} cannot be used: {error}.") from error
    except _UNFORESEEN as error:
        raise BundleError(
            f"{source} cannot be used, as what it holds does not go together: "
            f"{type(error).__name__}: {error}"
        ) from error
