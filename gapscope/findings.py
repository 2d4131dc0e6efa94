"""What a person should be told first: a few sentences, each with its numbers and what to do.

Liveness comes before tuning: a log in which nothing is grouped, or no tool is ever called, makes every other
sentence moot (metrics section 11).
"""

from collections.abc import Iterator

from gapscope.report import Finding, Measurement, Report, show, show_interval, show_number

PAPER_ALL_WRONG = 0.40
SIGNIFICANT = 0.05


def find(report: Report) -> list[Finding]:
    """Findings about a report that has none yet, the headline first."""
    return [_headline(report), *_liveness(report), *_gap(report), *_signal(report), *_calls(report), *_caveats(report)]


def _value(report: Report, name: str) -> float | None:
    measured = report.metrics.get(name)
    return None if measured is None else measured.value


def _with_interval(measured: Measurement) -> str:
    interval = show_interval(measured)
    return (
        f"{show(measured)} (95 % {interval}, n = {measured.n:,})"
        if interval
        else f"{show(measured)} (n = {measured.n:,})"
    )


def _headline(report: Report) -> Finding:
    attempts, dead = report.metrics["tool_attempt_rate"], report.metrics["all_wrong_tool_group_rate"]
    if attempts.value is None:
        return Finding(
            severity="warning",
            title="Tool use",
            text=f"Whether tools were used cannot be told: {attempts.reason}.",
            action=attempts.setting,
            metrics=[attempts.name],
        )
    text = f"Tools are tried on {_with_interval(attempts)} of rollouts"
    if dead.value is None:
        severity = "warning"
        text += f"; how often that is a dead end cannot be told: {_why(report, dead)}."
    else:
        severity = "problem" if dead.value >= PAPER_ALL_WRONG and dead.status != "thin" else "note"
        text += (
            f", and in {_with_interval(dead)} of the groups that try them every tool-using rollout is wrong"
            f"{_against_chance(report)}."
        )
        if dead.status == "thin":
            text += f" Thin evidence: {dead.reason}."
    return Finding(
        severity=severity,
        title="Thinking-Acting Gap",
        text=text,
        action=dead.setting,
        metrics=[attempts.name, dead.name],
    )  # fmt: skip


def _why(report: Report, measured: Measurement) -> str:
    if report.correctness.chosen == "undefined":
        return (report.correctness.message or "").split(". Values seen", 1)[0]
    return measured.reason or "unknown"


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _equals(p: Measurement) -> str:
    shown = show(p)
    return shown if shown.startswith("<") else f"= {shown}"


def _against_chance(report: Report) -> str:
    expected, p = report.metrics["all_wrong_tool_expected"], report.metrics["all_wrong_tool_p"]
    if expected.value is None:
        return ""
    text = f"; size and difficulty alone would give {show(expected)}"
    return text + (f" (p {_equals(p)})" if p.value is not None else "")


def _liveness(report: Report) -> Iterator[Finding]:
    if report.correctness.chosen == "undefined":
        yield Finding(
            severity="problem",
            title="Correctness is not defined",
            text=f"{_sentence(report.correctness.message or '')}.",
            action=report.correctness.hint,
        )
    singletons = _value(report, "group_singleton_rate")
    if singletons is not None and singletons > 0.5:
        yield Finding(
            severity="problem",
            title="Groups of one",
            text=f"{show_number(singletons, 'share')} of {report.groups.groups:,} groups hold a single rollout; the "
            f"group key is {report.groups.key}.",
            action="Name the field that rollouts of one question share: --group KEY.",
            metrics=["group_singleton_rate"],
        )
    if report.groups.key == "none":
        yield Finding(
            severity="problem",
            title="No groups",
            text="The log has neither a group id nor prompts, so nothing can be said about groups.",
            action=report.metrics["tool_attempt_group_rate"].setting,
        )
    if _value(report, "never_used") == 1.0:
        yield Finding(
            severity="problem",
            title="Tools are never used",
            text=f"Not one of {report.rollouts:,} rollouts attempted a call.",
            action="Check that the prompt offers tools and that the call syntax is one that gapscope knows "
            "(`gapscope formats`).",
            metrics=["never_used"],
        )


_COLLAPSING = {
    "tool_attempt_rate": "The share of rollouts that try a tool",
    "tool_calls_per_rollout": "The number of calls per rollout",
    "turns_mean": "The number of turns",
}


def _gap(report: Report) -> Iterator[Finding]:
    for key, words in _COLLAPSING.items():
        collapse = report.metrics.get(f"collapse[{key}]")
        if collapse is not None and collapse.value == 1.0:
            unit = report.metrics[key].unit
            before, after = (collapse.details[part] for part in ("reference", "recent"))
            onset = collapse.details["onset"]
            yield Finding(
                severity="problem",
                title="Tool use has collapsed",
                text=f"{words} fell from {_number(before, unit)} over the first steps to {_number(after, unit)} "
                "over the last"
                + (f"; it stays below half since step {_number(onset, 'step')}." if onset is not None else "."),
                action="Resample failed tool calls from their thinking prefixes (AXPO) before the signal is gone.",
                metrics=[key, collapse.name],
            )
            break
    excess, p = report.metrics["all_wrong_tool_excess"], report.metrics["all_wrong_tool_p"]
    if excess.value is not None and p.value is not None:
        more = excess.value > 0 and p.value <= SIGNIFICANT
        text = (
            f"Tool-using rollouts fail together {'more often than' if more else 'as often as'} the size of their "
            f"subgroups and the difficulty of their questions imply: {show(excess)} against expectation, exact p "
            f"{_equals(p)} over {p.n:,} informative groups."
        )
        yield Finding(
            severity="problem" if more else "note",
            title="More than chance" if more else "No more than chance",
            text=text,
            metrics=[excess.name, p.name],
        )


def _number(value: object, unit: str) -> str:
    return show_number(float(value) if isinstance(value, (int, float)) else None, unit)  # type: ignore[arg-type]


def _signal(report: Report) -> Iterator[Finding]:
    shares = [report.metrics[f"tool_signal_{sign}_share"] for sign in ("positive", "zero", "negative")]
    if shares[0].value is not None:
        positive, zero, negative = (show(share) for share in shares)
        yield Finding(
            severity="warning" if shares[0].value < 0.25 else "note",
            title="Signal on tool calls",
            text=f"Of {shares[0].n:,} tool-using rollouts {positive} get a positive advantage, {zero} none and "
            f"{negative} a negative one.",
            metrics=[share.name for share in shares],
        )
    zero_signal = report.metrics["group_zero_signal_rate"]
    if zero_signal.value is not None and zero_signal.value >= 0.5:
        yield Finding(
            severity="warning",
            title="Groups without signal",
            text=f"{_with_interval(zero_signal)} of groups teach nothing: "
            f"{show(report.metrics['group_all_wrong_rate'])} are all wrong and "
            f"{show(report.metrics['group_all_correct_rate'])} all correct.",
            metrics=[zero_signal.name],
        )
    tool, notool, delta = (report.metrics[n] for n in ("tool_accuracy", "notool_accuracy", "tool_within_group_delta"))
    if tool.value is not None and notool.value is not None:
        inside = f" Inside the same groups the difference is {show(delta)}." if delta.value is not None else ""
        yield Finding(
            severity="note",
            title="Accuracy with and without tools",
            text=f"{_with_interval(tool)} of tool-using rollouts are correct, {_with_interval(notool)} of the "
            f"others.{inside}",
            metrics=[tool.name, notool.name, delta.name],
        )


def _calls(report: Report) -> Iterator[Finding]:
    model, environment = report.metrics["tool_model_fault_rate"], report.metrics["tool_env_fault_rate"]
    if model.value is None:
        return
    faults = model.value + (environment.value or 0.0)
    if faults:
        rest = f" and {show(environment)} through the environment's" if environment.value is not None else ""
        yield Finding(
            severity="warning" if faults >= 0.2 else "note",
            title="Failed calls",
            text=f"Of {model.n:,} attempted calls {show(model)} failed through the model's fault{rest}.",
            metrics=[model.name, environment.name],
        )


def _caveats(report: Report) -> Iterator[Finding]:
    if report.survivorship.biased and report.survivorship.reason:
        yield Finding(
            severity="warning",
            title="Survivor bias",
            text=f"{_sentence(report.survivorship.reason)}. All-wrong rates are lower bounds.",
            action="Log all groups, before any filter on their rewards.",
        )
    tokens = report.tokens
    if tokens.scored_by:
        yield Finding(
            severity="note",
            title="Re-scored log-probs",
            text=f"The log-probs of {sum(tokens.scored_by.values()):,} rollouts are those of "
            f"{' and '.join(tokens.scored_by)}, which need not be the policy that sampled them.",
        )
    if tokens.retokenised:
        yield Finding(
            severity="note",
            title="Tokens made from text",
            text=f"The token ids of {tokens.retokenised:,} rollouts were made from their text and need not be the ones "
            "that were sampled.",
        )
    odd = {reason: count for reason, count in report.groups.excluded.items() if reason != "correctness_undefined"}
    if odd:
        listed = ", ".join(f"{count:,} {reason.replace('_', ' ')}" for reason, count in odd.items())
        yield Finding(
            severity="warning" if sum(odd.values()) > 0.05 * report.groups.groups else "note",
            title="Groups left out",
            text=f"Of {report.groups.groups:,} groups, by {report.groups.key}: {listed}.",
            action="If the sizes look wrong, name the field that rollouts of one question share: --group KEY.",
        )
    if report.rows.refused:
        first = report.refused[0]
        yield Finding(
            severity="warning",
            title="Refused rows",
            text=f"{report.rows.refused:,} of {report.rows.read:,} rows could not be read; the commonest reason, "
            f"{first.rows:,} times: {first.reason} ({first.file}:{first.line}).",
        )
    differs = report.repairs.get("step_differs_from_file_name")
    if differs:
        yield Finding(
            severity="warning",
            title="Steps disagree",
            text=f"{differs:,} rows state another step than the name of their file; the row's own step was taken.",
        )
    for name, count in report.correctness.disagreements.items():
        yield Finding(
            severity="warning",
            title="Two sources of correctness",
            text=f"`{name}` judges {count:,} rollouts differently from the rule in force, {report.correctness.rule}.",
            action=f"If `{name}` is the truth, say so: --correct {name}.",
        )
