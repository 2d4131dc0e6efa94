"""What plans are expected to cost: small logs by hand, and a plain script over drawn ones."""

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from axpo_logs import Made, attempts, drawn, rollout, uses, written
from example_notation import log_of

from gapscope.axpo.estimates import FEWEST, Behind, Cost, Estimates, Mean, estimated
from gapscope.axpo.plan import Draft, drafted, plannable
from gapscope.plan_options import PlanOptions
from gapscope.planning import ReadOptions

FOUR_TOKENS_BEHIND = "prefix=hm think=0.5 probs=0.9,0.5,0.1 after=0.5,0.5 name=python"
"""Five tokens of six come after the opening tag's, the branch point is behind the second; four are left."""


@contextmanager
def draft_of(log: Path, options: PlanOptions) -> Iterator[tuple[Draft, Estimates]]:
    read = ReadOptions(jobs=1)
    with plannable([str(log)], read) as store:
        draft = drafted(store, [str(log)], options, read)
        yield draft, estimated(store, draft)


@pytest.fixture
def estimates(tmp_path: Path) -> Callable[..., tuple[Estimates, Cost]]:
    """The estimates of an example, and the cost of all that is chosen."""

    def run(text: str, **options: object) -> tuple[Estimates, Cost]:
        with draft_of(log_of(text, tmp_path / "log.jsonl"), PlanOptions(**{"r": 1, **options})) as (draft, found):
            return found, found.cost([each.candidate for each in draft.chosen])

    return run


def test_what_is_sampled_is_the_mean_behind_the_branch_point(estimates: Callable[..., tuple[Estimates, Cost]]) -> None:
    found, cost = estimates("""
        q1 tool wrong prefix=hm think=0.5,0.5 probs=0.9,0.5,0.1 after=0.5,0.5,0.5,0.5 name=python
        q1 tool wrong prefix=hm think=0.5 probs=0.9,0.9 after=0.5,0.5 name=search
        q1 -    right tokens=11
        q2 tool right prefix=hm think=0.5,0.5 probs=0.9,0.5,0.1 name=python
        q2 -    wrong tokens=5 times=4
    """)
    # Behind the branch point 6, 3 and 2 of 9, 5 and 5 tokens; before it, with the prompt's one, 4 and 3.
    assert found.pooled == Behind(Mean(pytest.approx(11 / 3), 3), Mean(1.0, 3))
    assert cost == Cost(prefill=4 + 3, sampled=pytest.approx(2 * 4 * 11 / 3), executed=2 * 4 * 1.0)
    assert (found.unit, found.logged, found.rollouts) == ("tokens", 9 + 5 + 11 + 5 + 4 * 5, 8)
    assert found.share(cost) == pytest.approx(88 / 3 / 50)


def test_a_tool_with_enough_rollouts_has_its_own_mean(estimates: Callable[..., tuple[Estimates, Cost]]) -> None:
    found, cost = estimates(
        f"""
        q1 tool wrong {FOUR_TOKENS_BEHIND} times={FEWEST}
        q1 tool wrong prefix=hm probs=0.9,0.9,0.9 name=search times={FEWEST - 1}
        """,
        k=2,
    )
    assert found.tools == {"python": Behind(Mean(4.0, FEWEST), Mean(1.0, FEWEST))}
    pooled = (20 * 4 + 19 * 2) / 39
    assert found.behind("search").sampled == Mean(pytest.approx(pooled), 39)
    assert cost.sampled is not None
    # A budget of 39 buys 19 prefixes of two; those of python are less sure.
    assert cost.sampled == pytest.approx(2 * 19 * 4.0)


def test_only_calls_that_were_executed_are_expected_to_be(estimates: Callable[..., tuple[Estimates, Cost]]) -> None:
    found, cost = estimates("""
        q1 tool wrong prefix=hm probs=0.5,0.5
        q1 tool wrong prefix=hm probs=0.5,0.5 call=unparseable
        q1 tool wrong prefix=hm probs=0.5,0.5 call=unclosed
        q1 tool wrong prefix=hm probs=0.5,0.5 call=error
    """)
    assert found.pooled.executed == Mean(0.5, 4)
    assert cost.executed == 4 * 0.5


def test_the_share_is_not_known_where_a_rollout_has_no_tokens(
    estimates: Callable[..., tuple[Estimates, Cost]],
) -> None:
    found, cost = estimates("""
        q1 tool wrong prefix=hm probs=0.5,0.5,0.5,0.5
        q1 -    right
        q1 -    right tokens=4 times=6
    """)
    assert cost.sampled == 4 * 3
    assert (found.logged, found.share(cost)) == (None, None)


def test_a_log_without_tokens_is_counted_in_characters_and_prompts_are_not(
    estimates: Callable[..., tuple[Estimates, Cost]],
) -> None:
    found, cost = estimates(
        """
        q1 tool wrong prefix=thinking raw=12345 prompt=Why?
        q1 tool wrong prefix=hm raw=123 prompt=Why?
        q1 -    right chars=80 prompt=Why? times=2
        """,
        rank="random",
        seed=0,
        r=2,
    )
    assert found.unit == "characters"
    assert found.pooled.sampled == Mean((5 + 3) / 2, 2)
    assert cost == Cost(prefill=8 + 2, sampled=2 * 4 * 4.0, executed=8.0)
    assert found.share(cost) == 32 / (13 + 5 + 160)


def test_one_prefix_without_tokens_makes_characters_of_all(estimates: Callable[..., tuple[Estimates, Cost]]) -> None:
    found, cost = estimates(
        """
        q1 tool wrong prefix=thinking raw=12345 prompt=Why?
        q1 tool wrong prefix=hm raw=123 prompt=Why? probs=0.5,0.5
        q1 -    right chars=80 prompt=Why? times=6
        """,
        rank="random",
        seed=0,
    )
    assert (found.unit, cost.prefill) == ("characters", 8 + 2)


def test_an_empty_plan_costs_nothing(estimates: Callable[..., tuple[Estimates, Cost]]) -> None:
    found, cost = estimates("q1 tool right prefix=hm probs=0.5,0.5\nq1 - wrong tokens=9")
    assert cost == Cost(0, 0, 0)
    assert found.share(cost) == 0.0


def test_calls_before_a_later_branch_point_are_not_paid_again(tmp_path: Path) -> None:
    two = rollout([Made(body="ab"), Made(body="c d")], correct=False, group_id="q", rollout_id="1", step=1)
    other = rollout(correct=False, group_id="q", rollout_id="2", step=1)
    log = written(tmp_path / "log.jsonl", [two, other])
    with draft_of(log, PlanOptions(k=2, r=1, branch_call=2)) as (draft, found):
        cost = found.cost([each.candidate for each in draft.chosen])
    # Behind the second opening tag: `c`, a space, `d`, the closing tag, and the answer's tags and `2`.
    assert found.pooled == Behind(Mean(4.0 + 3.0, 1), Mean(1.0, 1))
    assert (cost.sampled, cost.executed) == (14.0, 2.0)


@pytest.mark.parametrize("tool_using", ["attempted", "parsed", "executed"])
def test_a_plain_script_finds_the_same_means(tmp_path: Path, tool_using: str) -> None:
    rollouts = drawn(7, steps=30)
    options = PlanOptions(step="all", tool_using=tool_using)
    with draft_of(written(tmp_path / "log.jsonl", rollouts), options) as (_, found):
        means = {None: found.pooled.executed, **{tool: each.executed for tool, each in found.tools.items() if tool}}
    scope = [each for each in rollouts if each.parent is None and each.split != "validation"]
    assert found.rollouts == len(scope)
    executed, sampled = defaultdict(list), []
    for each in (each for each in scope if uses(each, options)):
        first = attempts(each)[0]
        for tool in {None, first.name}:
            executed[tool].append(sum(call.executed for call in attempts(each)))
        if each.tokens and each.tokens.sampled and first.tokens:
            sampled.append(sum(each.tokens.sampled[first.tokens.branch :]))
    assert means == {tool: Mean(pytest.approx(sum(own) / len(own)), len(own)) for tool, own in executed.items()}
    assert found.unit == "tokens"
    assert found.pooled.sampled == Mean(pytest.approx(sum(sampled) / len(sampled)), len(sampled))


def test_a_continuation_that_is_in_the_log_is_no_part_of_the_means(tmp_path: Path) -> None:
    log = """
        q1 tool wrong prefix=hm probs=0.5,0.5 rollout_id=a
        q1 -    wrong tokens=4 times=7
    """
    with draft_of(log_of(log, tmp_path / "a.jsonl"), PlanOptions()) as (_, alone):
        pass
    more = f"{log}\np1 tool right prefix=hm probs=0.5,0.5,0.5,0.5 parent=a times=4"
    with draft_of(log_of(more, tmp_path / "b.jsonl"), PlanOptions()) as (_, beside):
        assert beside == alone
