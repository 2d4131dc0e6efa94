"""What was read, judged and set aside, as facts that stand at the head of a report."""

from gapscope.alignment import ALIGNED
from gapscope.report import Report
from gapscope.reporters.base import count, words


def provenance(report: Report) -> list[tuple[str, list[str]]]:
    """What was read, what was judged and what was set aside, as facts under a word each."""
    rows, groups, rule = report.rows, report.groups, report.correctness
    fates = ", ".join([f"{rows.kept:,} kept", *(f"{n:,} {word}" for word, n in rows.left_out.items())])
    read = [
        *report.sources[:2],
        *([f"{len(report.sources) - 2:,} more"] if len(report.sources) > 2 else []),
        *(f"{count(f.files, 'file')} of {f.format} ({f.dialect}{f.doubt})" for f in report.formats),
        f"{count(rows.read, 'row')}: {fates}",
    ]
    judged = [
        count(report.rollouts, "rollout"),
        _groups(report),
        *([count(len(report.runs), "run")] if len(report.runs) > 1 else []),
        *([_steps(report.steps)] if report.steps else []),
        *([count(len(report.data_sources), "data source")] if len(report.data_sources) > 1 else []),
        *([f"scope: {report.scope}"] if report.scope else []),
        f"correct: {rule.rule or 'undefined'} ({rule.chosen})" if rule.rule else "correct: undefined",
    ]
    noted = [
        *([f"grouped by {groups.key}"] if groups.key else []),
        *(f"{count(n, 'group')} excluded ({words(reason)})" for reason, n in groups.excluded.items() if n),
        *([f"{count(rule.unknown, 'rollout')} not judged"] if rule.unknown else []),
        *([f"{count(report.sub_outputs, 'sub-output')}"] if report.sub_outputs else []),
        *([f"{count(report.same_text, 'rollout')} with the text of another"] if report.same_text else []),
        *tokens(report),
    ]
    return [(word, found) for word, found in (("read", read), ("judged", judged), ("noted", noted)) if found]


def tokens(report: Report) -> list[str]:
    """Of how many rollouts the tokens are known, and of how many of these the calls among them."""
    alignment = {state: n for state, n in report.tokens.alignment.items() if state != "no_tokens"}
    found = sum(n for state, n in alignment.items() if state in ALIGNED)
    if not alignment:
        return []
    why = [f"{n:,} {words(state)}" for state, n in alignment.items() if state not in ALIGNED]
    return [f"tokens of {count(sum(alignment.values()), 'rollout')}, spans found in {found:,}", *why]


def _groups(report: Report) -> str:
    groups = report.groups
    if not groups.groups or groups.size is None:
        return "no groups"
    sizes = sorted(int(size) for size in groups.sizes if size.isdecimal())
    uneven = f" of {sizes[0]}–{sizes[-1]}, mostly {groups.size}" if len(sizes) > 1 else f" × {groups.size}"
    eligible = "" if groups.eligible == groups.groups else f", {groups.eligible:,} eligible"
    return count(groups.groups, "group") + uneven + eligible


def _steps(steps: list[int]) -> str:
    if len(steps) == 1:
        return f"step {steps[0]}"
    first, last = min(steps), max(steps)
    whole = last - first + 1 == len(steps)
    return f"steps {first}–{last}" if whole else f"{len(steps):,} steps from {first} to {last}"
