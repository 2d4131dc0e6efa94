"""rLLM's model gateway (`rllm.gateway.store=sqlite`): a database of every call of the model, with its tokens.

The tables are `traces` (one JSON document per call) and `trace_sessions`. A session is one rollout, named
`{task}:{number}` by the trainer, which deletes the sessions of a step once it has used them: what is
left are those of a step that did not end, and all of them where the gateway runs by itself. There is no reward in it.
Calls that do not continue one another, as those of several agents, are several outputs of the session.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby

from gapscope.parsers.base import Parser
from gapscope.rollouts import Json, Refused, Rollout, Source, refuse
from gapscope.rows import Reading, Row, RowError
from gapscope.shapes.conversations import tell, tool_definitions, tool_names
from gapscope.shapes.model_calls import BROKEN_TOKENS, ModelCall, conversations_in, tokens_of, transcript_of
from gapscope.shapes.rllm_traces import EVERY_SESSION, Trace, trace_of

_NAME = re.compile(r"(.+):([0-9]{1,18})", re.DOTALL)
_COLUMNS = frozenset({"session_id", "created_at", "data"})
_LONGEST_SESSION = 256 * 2**20
"""Characters of JSON of one session, all of whose calls are looked at together."""


def claims(row: Mapping[str, Json]) -> bool:
    """A database with both tables."""
    tables = row.get("tables")
    if not isinstance(tables, dict):
        return False
    columns = tables.get("traces"), tables.get("trace_sessions")
    return all(isinstance(names, list) and "trace_id" in names for names in columns)


def parse(rows: Iterable[Row], reading: Reading) -> Iterator[Rollout | Refused]:
    """The rows of a session stand together: each gives the rollouts of one."""
    for session, members in groupby(rows, key=lambda row: row.value.get("session_id")):
        yield from _session(session, members, reading)


def _session(session: Json, rows: Iterator[Row], reading: Reading) -> Iterator[Rollout | Refused]:
    first = next(rows)
    try:
        if not isinstance(session, str):
            yield refuse(first.line, None, f"`session_id` is {session!r:.60}, expected text")
            return
        traces = _traces(first, rows)
        conversations = conversations_in([trace.call for trace in traces])
        tools = next((trace.tools for trace in traces if tool_names(trace.tools)), None)
        for index, calls in enumerate(conversations):
            rollout = _rollout(first, session, calls, tools, reading)
            rollout.extra = {key: item for key, item in first.value.items() if key not in _COLUMNS} | dict(
                traces[0].extra
            )
            rollout.output_index = index if len(conversations) > 1 else None
            yield rollout
    except RowError as error:
        yield refuse(first.line, None, f"session {session!r:.60}: {error}")


def _traces(first: Row, others: Iterable[Row]) -> list[Trace]:
    traces: list[Trace] = []
    size = 0
    for row in (first, *others):
        data = row.value.get("data")
        size += len(data) if isinstance(data, str) else 0
        if size > _LONGEST_SESSION:
            message = f"its calls are more than {_LONGEST_SESSION:,} characters"
            raise RowError(message)
        traces.append(trace_of(data))
    return traces


def _rollout(row: Row, session: str, calls: list[ModelCall], tools: Json, reading: Reading) -> Rollout:
    messages, sampled = transcript_of(calls)
    last, declared = calls[-1], tool_names(tools)
    told = tell(
        messages,
        reading,
        sampled=sampled,
        declared_tools=declared,
        finish_reason=last.finish_reason,
        policy_version=last.policy_version,
    )
    named = _NAME.fullmatch(session)
    tokens = tokens_of(calls, source="rollout")
    broken = tokens is None and all(call.ids and call.prompt_ids for call in calls)
    return Rollout(
        format=PARSER.name,
        source=Source(reading.file, row.line, None),
        rollout_id=session,
        run=reading.run,
        group_id=named[1] if named else None,
        group_origin="logged" if named else None,
        sample_index=int(named[2]) if named else None,
        finish_reason=last.finish_reason,
        prompt=told.prompt,
        messages=list(calls[0].messages),
        output=told.output,
        output_origin="joined",
        dialect=reading.dialect.name,
        declared_tools=declared,
        tools=tool_definitions(tools),
        turns=told.turns,
        spans=told.spans,
        calls=told.calls,
        tokens=tokens,
        images=told.images,
        notes=[BROKEN_TOKENS] if broken else [],
    )


_OTHER_FILE = "the gateway knows nothing of it; read the episode files (`rllm.episode_logging.log_episodes=true`)"

PARSER = Parser(
    name="rllm-gateway",
    trainer="rLLM",
    producer="rLLM's model gateway (rllm-org/rllm@9beb6e0f676a) with `rllm.gateway.store=sqlite`",
    containers=("sqlite",),
    claims=claims,
    parse=parse,
    carries=("tool_calls", "tool_results", "turns"),
    optional={
        "declared_tools": "agents that send `tools` with their requests have them in `raw_request`",
        "finish_reason": "engines that say why a generation ended have it",
        "group_id": "sessions that rLLM's trainer opens are named `{task}:{number}`; name yours like that",
        "images": "images that are sent as data: URIs are in the messages",
        "logprobs": "let the engine return log-probs (vLLM behind the gateway does)",
        "token_ids": "let the engine return token ids (vLLM behind the gateway does)",
    },
    lacks={
        "advantage": "rLLM does not write advantages",
        "correctness": _OTHER_FILE,
        "data_source": _OTHER_FILE,
        "entropies": "rLLM writes none; re-score the log with a model",
        "ground_truth": _OTHER_FILE,
        "reward": _OTHER_FILE,
        "reward_parts": _OTHER_FILE,
        "step": _OTHER_FILE,
    },
    whole_file=True,
    query=EVERY_SESSION,
    part_of=("episodes/*/episode_hash*.json", "episodes/episode_*.json"),
)
