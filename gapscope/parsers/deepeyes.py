"""DeepEyes with the logger `rl_logging_board`: `rollout_data_rank0.jsonl`, appended to through the whole run.

Texts keep their special tokens, and the response holds the observations: they stand between `<|im_start|>user` and
`<|im_start|>assistant`. Tokens of the response are written as strings without ids, each decoded by itself, so that a
part of a character is U+FFFD. Their log-probs are the trainer's own, computed again before the update; observations
have some too, which nobody sampled. Images are pads, alike for every image. A resumed run appends its steps once more.
"""

from collections.abc import Mapping, Sequence

from gapscope.parsers.base import JSON, Parser, number, required_number, reread, row_by_row, source_of, step_of, text
from gapscope.rollouts import Json, Rollout, Tokens
from gapscope.rows import Reading, Row, RowError

_LISTS = ("response_tokens", "logprobs", "token_rewards")
_KNOWN_KEYS = frozenset({"step", "prompt", "response", "reward", "ground_truth", "values", *_LISTS})
_TURN_START = "<|im_start|>"


def claims(row: Mapping[str, Json]) -> bool:
    """Token strings, log-probs and token rewards beside a prompt and a response."""
    return all(key in row for key in ("prompt", "response", *_LISTS))


def translate(row: Row, reading: Reading) -> Rollout:
    """One row."""
    value = row.value
    prompt, output = text(value, "prompt"), text(value, "response")
    notes = list(row.repairs)
    found = reread(prompt, output, reading)
    return Rollout(
        format=PARSER.name,
        source=source_of(row, reading),
        run=reading.run,
        step=step_of(row, reading, notes),
        split="train",
        status=None if prompt or output else "padding",
        reward=required_number(value, "reward", row.repairs),
        ground_truth=value.get("ground_truth"),
        prompt=prompt,
        output=output,
        dialect=reading.dialect.name,
        declared_tools=found.declared_tools,
        turns=found.turns,
        spans=found.spans,
        calls=found.calls,
        tokens=_tokens(value),
        extra={key: item for key, item in value.items() if key not in _KNOWN_KEYS},
        notes=notes,
    )


def _tokens(value: Mapping[str, Json]) -> Tokens | None:
    """The tokens of the response, of which there must be as many as log-probs and token rewards.

    Raises:
        RowError: there are more or fewer, or something is no list, no text or no number.

    """
    lists: list[list[Json]] = []
    for key in _LISTS:
        item = value.get(key)
        if not isinstance(item, list):
            message = f"`{key}` is {item!r:.60}, expected a list"
            raise RowError(message)
        if lists and len(item) != len(lists[0]):
            message = f"`{_LISTS[0]}` has {len(lists[0]):,} entries, `{key}` {len(item):,}"
            raise RowError(message)
        lists.append(item)
    strings, logprobs, _ = lists
    for key, items, types in (("response_tokens", strings, _TEXT), ("logprobs", logprobs, _NUMBERS)):
        if not types.issuperset(map(type, items)):
            odd = next(item for item in items if type(item) not in types)
            message = f"`{key}` holds {odd!r:.60}, expected {'texts' if types is _TEXT else 'numbers'}"
            raise RowError(message)
    if not strings:
        return None
    sampled = sampled_in(strings)
    own = [number(item) if wrote else None for item, wrote in zip(logprobs, sampled, strict=True)]
    known = own.count(None) < len(own)
    return Tokens(
        n_prompt=0,
        logprobs=own if known else None,
        logprob_source="trainer" if known else None,
        sampled=sampled,
        strings=strings,
    )


_TEXT = frozenset({str})
_NUMBERS = frozenset({float, int, type(None)})


def sampled_in(tokens: Sequence[Json]) -> list[bool]:
    """Which tokens the policy wrote: not those of a user's turn, and not the lines that begin a turn.

    The token that ends the policy's turn is its own; what stands between it and the user's turn is the template's.
    """
    sampled = [True] * len(tokens)
    for index, token in enumerate(tokens):
        if token != _TURN_START:
            continue
        speaker = tokens[index + 1] if index + 1 < len(tokens) else None
        sampled[index : index + 3] = [False] * len(sampled[index : index + 3])
        if speaker == "assistant":
            continue
        if index and tokens[index - 1] == "\n":
            sampled[index - 1] = False
        end = next((at for at in range(index + 1, len(tokens)) if tokens[at] == _TURN_START), len(tokens))
        sampled[index:end] = [False] * (end - index)
    return sampled


PARSER = Parser(
    name="deepeyes",
    trainer="DeepEyes",
    producer="DeepEyes (Visual-Agent/DeepEyes@6c5e79671dbf) with `trainer.logger=['rl_logging_board']`",
    containers=JSON,
    claims=claims,
    parse=row_by_row(translate),
    carries=("logprobs", "reward", "step", "tool_calls", "tool_results", "turns"),
    optional={
        "declared_tools": "the prompt shows no <tools> list; check that it lists the tools",
        "ground_truth": "put `ground_truth` into `reward_model` of the data set",
    },
    lacks={
        "advantage": "DeepEyes does not write advantages",
        "correctness": "DeepEyes writes one shaped reward; name the value from which on it means correct",
        "data_source": "DeepEyes does not write the data source",
        "entropies": "DeepEyes writes none; re-score the log with a model",
        "finish_reason": "DeepEyes does not write why a rollout ended",
        "group_id": "DeepEyes writes no group id; rollouts of one step, prompt and ground truth are taken for a group",
        "images": "DeepEyes writes pads in the place of images",
        "reward_parts": "DeepEyes writes one reward",
        "token_ids": "DeepEyes writes token strings, which do not always join to the response; add `response_ids` to "
        "its `rl_logging_board_utils.py`",
    },
)
