"""A grammar for the resampled call, for plans that ask for one: what is sampled then is no longer AXPO."""

from gapscope.cutting.delimiters import CallSyntax
from gapscope.dialects.base import Dialect, TaggedDialect
from gapscope.errors import PlanError

_PROBE = '{"name": "a", "arguments": {}}'

_JSON = r"""
root ::= ws call ws "CLOSING"
call ::= "{" ws "\"name\"" ws ":" ws string ws "," ws "\"arguments\"" ws ":" ws object ws "}"
object ::= "{" ws ( string ws ":" ws value ( ws "," ws string ws ":" ws value )* )? ws "}"
array ::= "[" ws ( value ( ws "," ws value )* )? ws "]"
value ::= object | array | string | number | "true" | "false" | "null"
string ::= "\"" ( [^"\\\x00-\x1F] | "\\" ( ["\\/bfnrt] | "u" [0-9a-fA-F] [0-9a-fA-F] [0-9a-fA-F] [0-9a-fA-F] ) )* "\""
number ::= "-"? ( "0" | [1-9] [0-9]* ) ( "." [0-9]+ )? ( [eE] [-+]? [0-9]+ )?
ws ::= [ \n\t]?
"""


def call_grammar(dialect: Dialect) -> str:
    """The rest of a turn behind the opening delimiter: one call as JSON, and the closing delimiter (EBNF).

    Raises:
        PlanError: the calls of this dialect are not, or not all, JSON up to one literal delimiter.

    """
    closings = {_closing(call) for call in dialect.tags.calls} if isinstance(dialect, TaggedDialect) else set()
    closing = closings.pop() if len(closings) == 1 else None
    if closing is not None:
        return _JSON.strip().replace("CLOSING", closing.replace("\\", "\\\\").replace('"', '\\"'))
    message = f"the plan asks for calls bound by a JSON grammar, and {dialect.name} calls are not, or not all, JSON"
    raise PlanError(message, hint="Plan with --guided-decoding none, as the paper does.")


def _closing(call: CallSyntax) -> str | None:
    """The closing delimiter of calls that are JSON; None for others."""
    if not isinstance(call.closing, str):
        return None
    read = call.read(_PROBE)
    return call.closing if read and read[0].name == "a" else None
