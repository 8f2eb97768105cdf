"""Stored facts by name, each of which is of one type."""

from typing import Any

from sklearn_hscl.persistence.errors import BundleError


def check_facts(facts: Any, where: str, /, **kinds: Any) -> Any:
    """Raise where facts are not exactly those that are known, each of its type.

    Parameters
    ----------
    facts : dict
        What was stored.
    where : str
        What the facts are of, for messages.
    **kinds : type, or union of types
        The names, and the type of each.

    Returns
    -------
    dict
        `facts`.

    Raises
    ------
    BundleError
        Naming what is missing, unknown or of another type.
    """
    if not isinstance(facts, dict):
        raise BundleError(f"{where} is {type(facts).__name__}, not a dictionary")
    if facts.keys() != kinds.keys():
        differ = sorted(map(str, facts.keys() ^ kinds.keys()))
        raise BundleError(f"{where} has missing or unknown entries: {differ[:5]}")
    for name, kind in kinds.items():
        value = facts[name]
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is int):
            raise BundleError(f"{name} of {where} is {value!r:.80}")
    return facts
