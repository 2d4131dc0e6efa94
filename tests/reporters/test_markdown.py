"""GitHub-flavoured Markdown."""

import re
from collections.abc import Callable

import pytest
from markdown_it import MarkdownIt

from gapscope.report import Finding, Measurement, Report
from gapscope.reporters.markdown import render

Maker = Callable[..., Report]
Measure = Callable[..., Measurement]

SMALL = """\
## gapscope

**In 57.1 % of 7 groups every tool-using rollout is wrong.**

> [!WARNING]
> **Could not judge 1 of 1 limits.**

| gate | check |
| :-- | :-- |
| UNJUDGED | all_wrong_tool_group_rate &#60;= 0.4 cannot be judged: only 7 groups<br>→ Log more groups. |

| rate | value | 95 % | of | expected | excess | p | by step |
| :-- | --: | --: | :-- | --: | --: | --: | :-- |
| `tool_attempt_rate` | **46.9 %** | 20.8–72.9 % | 32 rollouts |  |  |  | █ ▅ |
| `all_wrong_tool_group_rate` | **57.1 %** thin | 25.0–84.2 % | 7 groups with a tool-using rollout \
| 39.3 % thin | +17.9 pp thin |  |  |
| `all_wrong_notool_group_rate` | **–** |  | not in this log: no group has a rollout without a call |  |  |  |  |

thin: too little evidence to judge by

### Findings

- **PROBLEM · Dead ends**<br>→ gapscope plan run.jsonl
- **GOOD · Groups look right**<br>2 of 2 groups have 4 rollouts.

<details><summary>All 4 other metrics</summary>
"""


def test_a_small_report_begins_like_this(small: Report) -> None:
    assert render(small).startswith(SMALL)


def test_every_metric_is_in_it(ordinary: Report) -> None:
    text = render(ordinary)
    folded = ("all_wrong_tool_expected", "all_wrong_tool_excess", "all_wrong_tool_p", "group_census")
    notool = tuple(name.replace("tool", "notool") for name in folded[:3])
    assert [name for name in ordinary.metrics if f"`{name}`" not in text and name not in (*folded, *notool)] == []


def test_tables_have_as_many_cells_as_their_head(ordinary: Report, small: Report) -> None:
    for report in (ordinary, small):
        for block in re.findall(r"(?:^\|.*\n)+", render(report), re.MULTILINE):
            assert len({line.count("|") for line in block.splitlines()}) == 1


@pytest.mark.parametrize(
    "text",
    [
        "a|b",
        "`code`",
        "<img src=x onerror=alert(1)>",
        "**bold** _x_ __init__ *y* ~~z~~",
        "[link](http://x.y) ![image](z)",
        "https://x.y www.x.y",
        "&lt;b&gt; &amp;",
        "back\\|slash",
        "</details><h1>",
        "$x$ %s {y}",
    ],
)
def test_text_from_logs_is_shown_as_it_is(text: str, bare: Maker, measured: Measure) -> None:
    rate = measured(
        "tool_attempt_rate", 0.5, 8, text, by={"run": [{"run": text, "value": 0.5, "n": 4}, {"run": "b", "n": 4}]}
    )
    finding = Finding(severity="note", title=f"<{text}>", text=text, action=text)
    report = bare(
        findings=[finding, finding.model_copy(update={"text": f"1 {text}"})],
        metrics=[rate, measured(f"tool_calls[{text}]", 2.0, 4, text, unit="count")],
        dead_groups=[{"group": text, "step": 1}],
    )
    page = MarkdownIt("gfm-like", {"linkify": False}).render(render(report))
    for tag in ("img", "a", "em", "s", "h1"):
        assert not re.search(rf"<{tag}\b", page)
    assert page.count("</details>") == 4
    bare_page = re.sub(r"<[^>]*>", "", page)
    shown = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    assert bare_page.count(shown) >= 9


def test_nobody_is_mentioned(bare: Maker) -> None:
    text = render(bare(findings=[Finding(severity="note", title="t", text="hi @team")]))
    assert "hi @<!-- -->team" in text
    assert "@team" not in text


def test_the_box_has_the_colour_of_the_exit_code(ordinary: Report, small: Report) -> None:
    assert "> [!CAUTION]\n> **The gate failed" in render(ordinary)
    assert "> [!WARNING]\n> **Could not judge" in render(small)


def test_a_trend_has_its_p_where_others_have_an_interval(ordinary: Report) -> None:
    assert "| `trend[accuracy]` | 0.00214 | p = 0.0312 | 32 steps |  |" in render(ordinary)


def test_long_lists_are_cut_and_counted(bare: Maker) -> None:
    text = render(bare(dead_groups=[{"group": f"g{i}"} for i in range(25)]))
    assert "25 dead groups" in text
    assert "| g19 |" in text
    assert "| g20 |" not in text
    assert "and 5 more groups" in text
