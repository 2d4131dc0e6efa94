"""What came of the continuations: how many are correct, and whether they called a tool at all.

**What it measures.** `continuation_success` is the share of correct continuations. Of the call that each sampled behind
the frozen opening delimiter, `continuation_closed_rate` is the share that was closed, `continuation_parsed_rate` that
could be read, `continuation_executed_rate` that was executed, and `continuation_invalid_rate` that the model got wrong:
not closed, unreadable, of an unknown tool, or with bad arguments. `duplicate_call_rate` is the share whose call an
earlier continuation of the same prefix made, to the letter. `recovered_k_histogram` counts prefixes by how many of
their K continuations are correct, and `continuation_mixed_rate` is the share of prefixes with both outcomes.

**Why it matters.** The prefix is paid the same for one correct continuation of K as for K of K, and `prefix_credit` in
the details of `continuation_success` is that pay, the mean of Eq. 3. A prefix that is easily resampled into one lucky
answer looks as good there as one that leads somewhere; only the success of its continuations tells them apart.

**How to read it.** Only a prefix with both outcomes gives its continuations a gradient: where all fail there is none,
and where all succeed only the prefix is credited. All resampled prefixes count here, whatever their group. Where what
was called cannot be seen, a continuation counts for none of the rates of its call.

**Reference.** arXiv:2605.28774, section 3 (Eqs 2 and 3); axpo section 3.6; metrics sections 3 and 9.
"""

from collections.abc import Iterator

from gapscope.metrics.base import (
    VERDICTS,
    Better,
    Context,
    Example,
    Metric,
    Ratio,
    Requirement,
    judge_evidence,
    measure_ratios,
    nothing_counted,
    unobserved,
)
from gapscope.outcomes import MODEL_FAULTS
from gapscope.report import Measurement

# One row per prefix. Grouping twice takes less memory than counting distinct calls.
BY_PREFIX = """
CREATE OR REPLACE TEMP TABLE continued_prefixes AS
WITH kinds AS (
    SELECT
        source, prefix, outcome IS NOT NULL AS called, count(*) AS times, count(correct) AS judged,
        count(*) FILTER (correct) AS wins, count(*) FILTER (outcome IN $faults) AS invalid,
        count(*) FILTER (outcome <> 'opened_not_closed') AS closed,
        count(*) FILTER (outcome NOT IN ('opened_not_closed', 'unparseable')) AS parsed,
        count(*) FILTER (executed) AS executed, call_hash
    FROM continuations GROUP BY source, prefix, called, raw_hash, call_hash
),
meant AS (
    SELECT
        source, prefix, called, call_hash, sum(times) AS times, sum(times - 1) AS repeats, sum(judged) AS judged,
        sum(wins) AS wins, sum(invalid) AS invalid, sum(closed) AS closed, sum(parsed) AS parsed,
        sum(executed) AS executed
    FROM kinds GROUP BY source, prefix, called, call_hash
),
counted AS (
    SELECT
        source, prefix, sum(judged)::BIGINT AS k, sum(wins)::BIGINT AS wins,
        coalesce(sum(times) FILTER (called), 0)::BIGINT AS called, sum(times)::BIGINT AS drawn,
        sum(invalid)::BIGINT AS invalid, sum(closed)::BIGINT AS closed, sum(parsed)::BIGINT AS parsed,
        sum(executed)::BIGINT AS executed, coalesce(sum(repeats) FILTER (called), 0)::BIGINT AS repeated,
        coalesce(sum(times - 1) FILTER (called), 0)::BIGINT AS alike
    FROM meant GROUP BY source, prefix
)
SELECT g.split, g.run, g.step, g.data_source, g.in_scope, counted.*
FROM counted JOIN attempts AS a ON a.id = source JOIN all_groups AS g USING (cluster)
"""
OVERVIEW = """
SELECT
    count(*) FILTER (k > 0), count(*) FILTER (wins > 0), sum(drawn - k)::BIGINT, sum(drawn - called)::BIGINT,
    sum(called)::BIGINT, sum(alike)::BIGINT,
    (
        SELECT count(*) FROM rollouts ANTI JOIN duplicates USING (id) ANTI JOIN continuations USING (id)
        WHERE parent_id IS NOT NULL AND coalesce(status, 'ok') NOT IN ('padding', 'excluded')
    )
FROM continued_prefixes WHERE in_scope
"""
HISTOGRAM = "SELECT k, wins, count(*) FROM continued_prefixes WHERE in_scope AND k > 0 GROUP BY k, wins"

SUCCESS = Ratio(
    "continuation_success",
    x="wins",
    m="k",
    source="continued_prefixes",
    of="continuations",
    interval="cluster",
    level="continuations",
    better="higher",
    needs_verdicts=True,
    empty="no continuation has a verdict",
)
MIXED = SUCCESS._replace(
    name="continuation_mixed_rate",
    x="(wins > 0 AND wins < k)::INTEGER",
    m="1",
    where="k > 0",
    of="resampled prefixes",
    interval="wilson",
    level="prefixes",
)


def _of_calls(name: str, x: str, better: Better) -> Ratio:
    return SUCCESS._replace(
        name=name,
        x=x,
        m="called",
        of="continuations with a call",
        better=better,
        needs_verdicts=False,
        empty="what the continuations called cannot be seen",
        need="tool_calls",
    )


CALLS = (
    _of_calls("continuation_invalid_rate", "invalid", "lower"),
    _of_calls("continuation_closed_rate", "closed", "higher"),
    _of_calls("continuation_parsed_rate", "parsed", "higher"),
    _of_calls("continuation_executed_rate", "executed", "higher"),
    _of_calls("duplicate_call_rate", "repeated", "lower"),
)
K_HISTOGRAM = "recovered_k_histogram"


def measure(context: Context) -> Iterator[Measurement]:
    """Success, then by prefix, then of the calls."""
    if missing := context.no_continuations:
        reason, setting = missing
        for ratio in (SUCCESS, MIXED, *CALLS):
            yield nothing_counted(context, ratio._replace(empty=reason, setting=setting))
        why = context.no_verdicts() or missing
        yield unobserved(K_HISTOGRAM, MIXED.of, *why, unit="count")
        return
    store = context.store
    store.execute(BY_PREFIX, faults=list(MODEL_FAULTS))
    prefixes, credited, unjudged, unseen, called, alike, orphans = store.rows(OVERVIEW)[0]
    success, mixed, *calls = measure_ratios(context, [SUCCESS, MIXED, *CALLS])
    if success.value is not None:
        details = {**success.details, "prefix_credit": credited / prefixes, "prefixes": prefixes}
        excluded = {"without a verdict": unjudged, "source not in the log": orphans}
        success = success.model_copy(
            update={"details": details, "excluded": {why: count for why, count in excluded.items() if count}}
        )
    yield success
    yield mixed
    yield _histogram(context, mixed)
    for measured in calls:
        changes: dict[str, object] = {"excluded": {"without a call that can be seen": unseen} if unseen else {}}
        if measured.name == CALLS[-1].name and called:
            changes["details"] = {**measured.details, "alike_but_for_case_and_blanks": alike / called}
        yield measured.model_copy(update=changes)


def _histogram(context: Context, mixed: Measurement) -> Measurement:
    """Prefixes by the number of continuations that are correct, for each number that was drawn."""
    if mixed.value is None:
        return unobserved(K_HISTOGRAM, mixed.of, mixed.reason or "", mixed.setting, unit="count")
    counts = {(k, wins): count for k, wins, count in context.store.rows(HISTOGRAM)}
    status, reason = judge_evidence(context, mixed.n, "prefixes")
    return Measurement(
        name=K_HISTOGRAM,
        value=float(mixed.n),
        n=mixed.n,
        of=mixed.of,
        interval_method="none",
        status=status,
        reason=reason,
        unit="count",
        table=[
            {
                "k": k,
                "correct": wins,
                "prefixes": counts.get((k, wins), 0),
                "value": counts.get((k, wins), 0) / mixed.n,
                "n": mixed.n,
            }
            for k in sorted({k for k, _ in counts})
            for wins in range(k + 1)
        ],
    )


OF_VERDICTS = (SUCCESS.name, MIXED.name, K_HISTOGRAM)

METRIC = Metric(
    name="continuations",
    question="What came of the continuations?",
    keys=(*OF_VERDICTS, *(ratio.name for ratio in CALLS)),
    measure=measure,
    doc=__doc__ or "",
    requires=(
        Requirement(OF_VERDICTS, VERDICTS),
        Requirement(tuple(ratio.name for ratio in CALLS), ("tool_calls",)),
    ),
    # Of the first prefix one continuation of four is correct, one whose call was not closed; of the second both are.
    example=Example(
        """
        q1 tool wrong rollout_id=a
        q1 tool wrong rollout_id=b
        p1 tool wrong parent=a raw=Rome
        p1 tool wrong parent=a raw=Rome
        p1 tool right parent=a raw=Rom call=unclosed
        p1 tool wrong parent=a raw=rome call=error
        p2 tool right parent=b raw=Rome
        p2 tool right parent=b raw=Oslo
        """,
        {
            "continuation_success": 3 / 6,
            "continuation_mixed_rate": 1 / 2,
            "continuation_invalid_rate": 1 / 6,
            "continuation_closed_rate": 5 / 6,
            "continuation_parsed_rate": 5 / 6,
            "continuation_executed_rate": 5 / 6,
            "duplicate_call_rate": 1 / 6,
            "recovered_k_histogram": 2.0,
        },
    ),
)
