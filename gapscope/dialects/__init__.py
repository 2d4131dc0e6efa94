"""Tool-call syntaxes. A new one is one file here and one entry in DIALECTS."""

from gapscope.dialects import hermes
from gapscope.dialects.base import Dialect

DIALECTS: tuple[Dialect, ...] = (hermes.DIALECT,)
"""Every dialect; the first is assumed where no text shows any."""

__all__ = ["DIALECTS", "Dialect", "dialect_named"]


def dialect_named(name: str) -> Dialect:
    """The dialect of that name.

    Raises:
        KeyError: there is none.

    """
    return {dialect.name: dialect for dialect in DIALECTS}[name]
