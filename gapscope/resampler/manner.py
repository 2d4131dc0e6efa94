"""In what manner the trainer's environment is played: learned from its log, or from the server's template."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

from gapscope.dialects import DIALECTS, dialect_named
from gapscope.dialects.base import Dialect
from gapscope.errors import PlanError
from gapscope.plan_options import PlanOptions
from gapscope.plans import PlannedPrefix
from gapscope.resampler.grammar import call_grammar
from gapscope.resampler.observations import Learned
from gapscope.resampler.template import calling_dialect
from gapscope.resampler.turns import Manner
from gapscope.resampler.wording import Wording, stops
from gapscope.resampler.wording_choice import verified, wording_for
from gapscope.rollouts import Rollout
from gapscope.serving.transport import RequestRefused
from gapscope.serving.vllm import Endpoint
from gapscope.tokenizer import Vocabulary

Malformed = Literal["trainer", "ends", "continues"]
"""What becomes of a rollout whose call cannot be read: what the trainer's log shows, or what is said here."""

_SOURCES: Mapping[str, str] = {
    "log": "as in the log",
    "template": "as the server's chat template writes them",
    "dialect": "as trainers of this syntax write them",
}


_MOST_EXAMPLES = 32


class LogManner(NamedTuple):
    """What a log shows, with some rollouts that show it, and the tokenizer of its ids where one was named."""

    shown: Learned
    examples: list[Rollout]
    vocabulary: Vocabulary | None


def keeping(rollouts: Iterable[Rollout], kept: list[Rollout]) -> Iterator[Rollout]:
    """The same rollouts; the first few that have token ids and answered calls are put into `kept` as they pass."""
    for rollout in rollouts:
        if len(kept) < _MOST_EXAMPLES and rollout.tokens is not None and any(call.executed for call in rollout.calls):
            kept.append(rollout)
        yield rollout


def manner_key(prefix: PlannedPrefix) -> str | None:
    """The name of the syntax that a prefix is continued in; None where the server's template chooses it."""
    return prefix.dialect if prefix.prefix.delimited else None


async def manners_of(
    log: LogManner,
    prefixes: Sequence[PlannedPrefix],
    options: PlanOptions,
    endpoint: Endpoint | None,
    malformed: Malformed,
) -> tuple[dict[str | None, Manner], list[str]]:
    """The manner for each `manner_key` of the prefixes, and what is in force, in sentences.

    Raises:
        EndpointError: the server is gone.
        PlanError: nothing shows how results are written, or a grammar is asked for that cannot be had.

    """
    if endpoint is not None and not await endpoint.tokenizes():
        endpoint = None
    manners: dict[str | None, Manner] = {}
    about: list[str] = []
    for key in dict.fromkeys(map(manner_key, prefixes)):
        dialect = await _dialect(key, endpoint)
        wording = await wording_for(log.shown, dialect, endpoint)
        grammar = call_grammar(dialect) if options.guided_decoding == "json" else None
        manners[key] = _manner(log.shown, dialect, wording, malformed)._replace(grammar=grammar)
        about += _said(manners[key], log.shown)
        if endpoint is not None:
            same, n = await verified(endpoint, wording, log.examples, log.vocabulary)
            if n:
                about.append(f"written so, {same:,} of {n:,} answers of the log are its own tokens")
    return manners, about


async def _dialect(key: str | None, endpoint: Endpoint | None) -> Dialect:
    if key is not None:
        return dialect_named(key)
    if endpoint is None:
        message = "the log shows no delimiters of calls, and there is no server whose template writes them"
        raise PlanError(message, hint="Resample with --endpoint, or log the text as it was sampled.")
    try:
        return await calling_dialect(endpoint, DIALECTS)
    except RequestRefused as refusal:
        message = f"the log shows no delimiters of calls, and of the server: {refusal.reason}"
        raise PlanError(message, hint="Start it with the chat template that the trainer used.") from None


def _manner(shown: Learned, dialect: Dialect, wording: Wording, malformed: Malformed) -> Manner:
    stop = stops(dialect, wording)
    if wording.ended_by == "call" and not stop.texts:
        message = f"the turns of {dialect.name} are stopped at {', '.join(stop.missing)}, which is no text to stop at"
        raise PlanError(message)
    seen = shown.malformed
    goes_on = seen.continues > seen.ends if malformed == "trainer" else malformed == "continues"
    return Manner(
        dialect=dialect,
        wording=wording,
        stop=tuple(stop.texts),
        malformed="continues" if goes_on else "ends",
        complaint=seen.answer if goes_on else None,
        most_calls=1 if wording.between is None else shown.several.most,
    )


def _said(manner: Manner, shown: Learned) -> list[str]:
    wording, seen = manner.wording, shown.malformed
    ended = "stops at " + " or ".join(manner.stop) if manner.stop else "goes on to the end of its turn"
    n = f" ({shown.same:,} of {shown.n:,})" if wording.source == "log" else ""
    found = [f"{manner.dialect.name}: the policy {ended}; results are written {_SOURCES[wording.source]}{n}"]
    goes_on = "is answered, and the rollout goes on" if manner.malformed == "continues" else "ends the rollout"
    if seen.ends or seen.continues:
        told = f"in the log {seen.ends:,} rollouts ended so, {seen.continues:,} went on"
        found.append(f"a call that cannot be read {goes_on}; {told}")
    else:
        found.append(f"a call that cannot be read {goes_on}; the log has none")
    unstopped = stops(manner.dialect, wording).missing
    if unstopped:
        found.append(f"calls that begin with {', '.join(unstopped)} are not stopped at")
    if manner.most_calls is not None:
        found.append(f"of several calls of a turn the first {manner.most_calls:,} are executed")
    return found
