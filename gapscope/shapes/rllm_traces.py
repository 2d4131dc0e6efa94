"""Traces of rLLM's model gateway: one call of the model each, by session, in the order in which they were made."""

from collections.abc import Mapping
from typing import NamedTuple

from gapscope.json_rows import decode_document
from gapscope.rollouts import Json, Refused
from gapscope.rows import RowError
from gapscope.shapes.model_calls import ModelCall, logprobs_in, whole_numbers

_SELECT = """
SELECT
    s.session_id AS session_id,
    s.created_at AS created_at,
    (SELECT t.data FROM traces AS t WHERE t.trace_id = s.trace_id) AS data
FROM trace_sessions AS s
"""
_IN_ORDER = "ORDER BY s.session_id, s.created_at, s.rowid"

_KNOWN_KEYS = frozenset(
    {
        "trace_id", "session_id", "messages", "prompt_token_ids", "response_message", "completion_token_ids",
        "logprobs", "routing_matrices", "finish_reason", "weight_version", "latency_ms", "token_counts", "timestamp",
        "raw_request", "raw_response",
    }
)  # fmt: skip

EVERY_SESSION = _SELECT + _IN_ORDER


def one_session(session: str) -> str:
    """The query for the traces of one session, whose name is written so that it can be nothing but a text."""
    name = session.encode("utf-8", "replace").hex()
    return f"{_SELECT} WHERE s.session_id = CAST(x'{name}' AS TEXT) {_IN_ORDER}"


class Trace(NamedTuple):
    """One call, the tools that it was offered, and what else the gateway knows about it."""

    call: ModelCall
    tools: Json
    extra: Mapping[str, Json]


def trace_of(data: Json) -> Trace:
    """The trace in a row's `data`.

    Raises:
        RowError: it is no trace.

    """
    decoded = decode_document(data.encode("utf-8", "replace")) if isinstance(data, str) else None
    if isinstance(decoded, Refused):
        message = f"`data` is {decoded.reason}"
        raise RowError(message)
    value = decoded.value if decoded else None
    if not isinstance(value, dict):
        message = "`data` holds no object"
        raise RowError(message)
    messages, said, request = value.get("messages"), value.get("response_message"), value.get("raw_request")
    if not isinstance(messages, list):
        message = f"`messages` is {type(messages).__name__}, expected a list"
        raise RowError(message)
    reason, version = value.get("finish_reason"), value.get("weight_version")
    call = ModelCall(
        messages,
        {"role": "assistant", **said} if isinstance(said, dict) else {"role": "assistant"},
        whole_numbers(value.get("prompt_token_ids")),
        whole_numbers(value.get("completion_token_ids")),
        logprobs_in(value.get("logprobs")),
        reason if isinstance(reason, str) else None,
        None if version is None else str(version),
    )
    tools = request.get("tools") if isinstance(request, dict) else None
    return Trace(call, tools, {key: item for key, item in value.items() if key not in _KNOWN_KEYS and item})
