"""The table of a plan before it is paid for: small logs by hand, and what holds in every width."""

import re
from pathlib import Path

import pytest
from axpo_logs import drawn, written
from example_notation import log_of
from msgspec.structs import replace
from rich.cells import cell_len

from gapscope.axpo.estimates import Estimates, estimated
from gapscope.axpo.plan import Draft, drafted, plannable
from gapscope.axpo.plan_table import compose, plan_rows, render
from gapscope.plan_options import PlanOptions
from gapscope.planning import ReadOptions
from gapscope.reporters.base.page import plain

COLLAPSE = Path(__file__).parent.parent.parent / "sample_logs" / "collapse"

DEAD = """
q1 tool wrong prefix=hm think=0.5 probs=0.9,0.5,0.1 name=python data_source=math step=3
q1 tool wrong prefix=hm think=0.5 probs=0.9,0.9,0.9 name=search data_source=math step=3
q1 -    right tokens=6 data_source=math step=3 times=6
q2 tool wrong call=unclosed prefix=hm probs=0.9,0.9 data_source=web step=3
q2 -    wrong tokens=5 data_source=web step=3 times=7
"""
"""Two groups that trigger, one of them with nothing to branch from; 16 rollouts, which buy one prefix."""


def draft_of(log: Path, options: PlanOptions) -> tuple[Draft, Estimates]:
    read = ReadOptions(jobs=1)
    with plannable([str(log)], read) as store:
        draft = drafted(store, [str(log)], options, read)
        return draft, estimated(store, draft)


def written_as(draft: Draft, estimates: Estimates, width: int) -> list[str]:
    return [plain(line) for line in compose(draft, estimates, width=width)]


def test_the_table_of_a_small_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    log = log_of(DEAD, Path("log.jsonl"))
    found = draft_of(log, PlanOptions(max_turns=3, success=0.5))
    # Behind the branch points 2, 2 and 1 tokens were sampled, and 1, 1 and 0 calls executed.
    assert (
        "\n".join(written_as(*found, width=100))
        == """\
▌ 1 prefix × 4 = 4 continuations, for 1 of 2 dead groups
▌ dry run, nothing is written; a group is dead where it has tool-using rollouts and none of them is
▌ correct

read    log.jsonl · step 3 · 2 groups · 16 rollouts
judged  correct: correct (logged)
plan    K = 4 · r = 0.25 · 1 of 1 token-exact

Dead groups  by data source and tool of the call
                    dead   budget            continu-  prefill  sampled   tool
  source  tool    groups  reaches  prefixes    ations   tokens   tokens  calls
  math    python       1        1         1         4        3        7    2.7
  web     -            1        0         0         0        0        0      0
  total                2        1         1         4        3        7    2.7

Budget
  needed: 2 for the first prefix of each dead group, 2 for all candidates
  given: 1, as continuations may be 0.25 of 16 rollouts, 4 for each prefix, rounded down
  taken: 1, for 4 continuations, 25.0 % of the rollouts of this step

Expected cost
  7 tokens to sample, +8.2 % of the 81 that all 16 rollouts of the planned steps sampled
  tool-using rollouts: from the branch point on, 1.667 tokens and 0.6667 executed calls on
    average, n = 3

Expected recovery
  0.94 of 1 group with p = 0.5 for each continuation, as stated with --success
  0.12 of 1 group with p = 0.0315 for each continuation, if the paper's 12 % of groups (section
    4.5) were prefixes of K = 4 whose continuations are alike
  0.15 of 1 group with p = 0.0398 for each continuation, if its offline 15 % (appendix D) were

Not to be branched from
  1 of 3 tool-using rollouts of dead groups: 1 unclosed"""
    )


def test_a_group_counts_for_the_tool_of_its_first_candidate_and_a_prefix_for_its_own(tmp_path: Path) -> None:
    draft, estimates = draft_of(log_of(DEAD, tmp_path / "log.jsonl"), PlanOptions(r=1))
    assert [(row.data_source, row.tool, row.dead, row.reached, len(row.prefixes)) for row in plan_rows(draft)] == [
        ("math", "python", 1, 1, 1),
        ("web", None, 1, 0, 0),
        ("math", "search", 0, 0, 1),
    ]
    assert "  a group counts for the tool of its first prefix, a prefix for its own\n" in render(draft, estimates)


def test_without_tokens_characters_are_counted_and_that_is_said() -> None:
    found = draft_of(COLLAPSE, PlanOptions(rank="random", seed=0))
    text = "\n".join(written_as(*found, width=120))
    assert re.search(r"chars +chars +calls$", text, re.MULTILINE)
    assert "the tokens of these prefixes are not in the log: characters are shown instead" in text


def test_an_empty_plan_has_no_cost_and_says_why(tmp_path: Path) -> None:
    found = draft_of(log_of(DEAD, tmp_path / "log.jsonl"), PlanOptions(r=0))
    text = "\n".join(written_as(*found, width=120))
    assert text.startswith("▌ no prefix, for none of 2 dead groups\n")
    assert "Expected" not in text
    assert "empty: continuations may be 0 of 16 rollouts" in text


def test_no_line_is_wider_than_the_terminal_and_none_steers_it(tmp_path: Path) -> None:
    rollouts = drawn(3)
    names = ["python", "a_tool_with_a_very_long_name.that_goes_on_and_on", "検索ツール" * 4, "a\x1b[31mb"]
    for number, each in enumerate(rollouts):
        each.calls = [replace(call, name=names[number % 4] if call.name else None) for call in each.calls]
        each.data_source = "a source\x1b[31m of some length" if number % 2 else None
    found = draft_of(written(tmp_path / "log.jsonl", rollouts), PlanOptions(step="all", r=2))
    for width in (60, 61, 79, 80, 81, 100, 120):
        lines = written_as(*found, width=width)
        assert max(map(cell_len, lines)) <= width
        assert all(line.isprintable() for line in lines)


def test_more_rows_than_fit_a_screen_are_counted_and_stay_in_the_total(tmp_path: Path) -> None:
    many = "\n".join(f"q{n} tool wrong prefix=hm probs=0.5,0.5 name=t{n:02}\nq{n} - right times=7" for n in range(23))
    found = draft_of(log_of(many, tmp_path / "log.jsonl"), PlanOptions())
    lines = written_as(*found, width=100)
    assert "  and 3 more rows" in lines
    total = next(line for line in lines if line.strip().startswith("total"))
    assert total.split()[1:5] == ["23", "11", "11", "44"]
