"""Log formats. A new one is one file here and one entry in PARSERS."""

from gapscope.parsers import rollout_v1, trl, verl_legacy, verl_v1
from gapscope.parsers.base import Parser, Reading, Row

PARSERS: tuple[Parser, ...] = (
    rollout_v1.PARSER,
    verl_v1.PARSER,
    verl_legacy.PARSER,
    trl.PARSER,
)
"""Every format. At most one of them claims a row; a test holds them to it."""

__all__ = ["PARSERS", "Parser", "Reading", "Row", "parser_named"]


def parser_named(name: str) -> Parser:
    """The parser of that name.

    Raises:
        KeyError: there is none.

    """
    return {parser.name: parser for parser in PARSERS}[name]
