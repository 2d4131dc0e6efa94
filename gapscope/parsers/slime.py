"""slime's rollouts, and those of its fork miles: `{dump}/rollout_data/{rollout id}.pt`, `eval_{rollout id}.pt`.

Written with `--dump-details DIR`, or with `--save-debug-rollout-data` under a name of one's own. A file of
`torch.save` holds `{"rollout_id", "samples": [...]}`, read without PyTorch and without executing anything. A sample
has its text with the special tokens, its tokens with a mask that is 0 on the results of tools, and log-probs that
are 0.0 there. What a custom rollout sets on a sample is written with it and kept.

The group index counts on through the run. Sub-agents and compacted contexts give several samples of one rollout,
which share `rollout_id`; it is null elsewhere, and the index counts then. Samples of evaluation have no group, and
their index begins anew for each data set. A reward may be a dictionary, of which `--reward-key` is trained on, and
the log does not say which key that is. miles takes `messages` out of the metadata: they are in `trajectory/`.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from gapscope.parsers.base import Parser, number, reread, source_of, step_of, text, whole_number
from gapscope.rollouts import Image, Json, Refused, RewardPart, Rollout, Status, Tokens, Turn, refuse
from gapscope.rows import Reading, Row, RowError
from gapscope.shapes.conversations import image_of, messages_of, prompt_text, tool_definitions, tool_names
from gapscope.shapes.sampled_tokens import tokens_of
from gapscope.unpickling import Array, Foreign, PickleRefused, as_json

_LAYOUT = re.compile(r"(?:^|/)(?:rollout_data/)?(?:[^/]*?_)??(?P<split>eval_)?(?P<step>\d+)\.pt$")
_NEEDED = frozenset({"tokens", "response", "response_length", "status", "reward"})
_TOKENS = ("tokens", "response_length", "loss_mask", "rollout_log_probs")
_READ = frozenset(
    {*_NEEDED, *_TOKENS, "group_index", "index", "rollout_id", "prompt", "label", "remove_sample", "multimodal_inputs"}
)
_NOT_NEEDED = frozenset(
    {
        "multimodal_train_inputs", "multimodal_train_input_id", "apply_chat_template_kwargs", "teacher_log_probs",
        "rollout_top_p_token_ids", "rollout_top_p_token_offsets", "rollout_routed_experts", "rollout_indexer_topk",
        "opd_reverse_kl", "spec_info", "prefix_cache_info", "trace", "payload_text", "generate_function_path",
        "custom_rm_path", "routing_key", "session_id", "non_generation_time",
    }
)  # fmt: skip
_STATUS: Mapping[str, tuple[Status | None, str | None]] = {
    "completed": ("ok", "stop"),
    "truncated": ("truncated", "length"),
    "aborted": ("error", "abort"),
    "failed": ("error", "error"),
    "pending": (None, None),
}


def claims(row: Mapping[str, Json]) -> bool:
    """A list of samples with text and tokens; those of the trainer's side have no text."""
    samples = row.get("samples")
    first = samples[0] if isinstance(samples, list) and samples else None
    return "rollout_id" in row and isinstance(first, dict) and first.keys() >= _NEEDED


def parse(rows: Iterable[Row], reading: Reading) -> Iterator[Rollout | Refused]:
    """All samples, of which those of one rollout are numbered in their order."""
    seen: Counter[str] = Counter()
    for row in rows:
        samples = row.value.get("samples")
        if not isinstance(samples, list) or not samples:
            yield refuse(row.line, row.offset, f"`samples` is {_short(samples)}, expected a list of samples")
            continue
        for sample in samples:
            try:
                yield _translate(sample, row, reading, seen)
            except RowError as error:
                yield refuse(row.line, row.offset, str(error))


def _translate(sample: Json, row: Row, reading: Reading, seen: Counter[str]) -> Rollout:
    if not isinstance(sample, dict):
        message = f"a sample is {_short(sample)}, expected an object"
        raise RowError(message)
    notes = list(row.repairs)
    training = reading.split != "validation"
    status, finish_reason = _ending(sample)
    prompt, asked = _prompt(sample.get("prompt"))
    found = reread(prompt, text(sample, "response"), reading, finish_reason=finish_reason)
    group, index = whole_number(sample.get("group_index")), whole_number(sample.get("index"))
    shared = whole_number(sample.get("rollout_id"))
    rollout_id = str(index if shared is None else shared) if training and (shared, index) != (None, None) else None
    turns = _versioned(found.turns, sample.get("weight_versions"))
    reward, parts = _reward(sample.get("reward"))
    metadata = sample.get("metadata")
    known = metadata if isinstance(metadata, dict) else {}
    source = known.get("data_source")
    rollout = Rollout(
        format=PARSER.name,
        source=source_of(row, reading),
        rollout_id=rollout_id,
        run=reading.run,
        step=step_of(row, reading, notes, key="rollout_id"),
        split=reading.split or "train",
        group_id=None if group is None else str(group),
        group_origin=None if group is None else "logged",
        sample_index=index,
        output_index=seen[rollout_id] if rollout_id is not None and shared is not None else None,
        status=status,
        finish_reason=finish_reason,
        reward=reward,
        reward_parts=parts,
        ground_truth=as_json(sample.get("label")),
        data_source=source if isinstance(source, str) else None,
        prompt=prompt,
        messages=asked,
        output=sample["response"],
        dialect=reading.dialect.name,
        declared_tools=found.declared_tools if found.declared_tools is not None else tool_names(known.get("tools")),
        tools=tool_definitions(as_json(known.get("tools"))),
        turns=turns,
        spans=found.spans,
        calls=found.calls,
        tokens=_tokens(sample),
        images=_images(sample.get("multimodal_inputs")),
        extra=_extra(sample, row, versioned=turns is not found.turns),
        notes=notes,
    )
    if rollout_id is not None:
        seen[rollout_id] += 1
    return rollout


def _short(value: Json) -> str:
    """What stands in place of something else, for a message."""
    return f"{value!r:.60}" if value is None or isinstance(value, (str, int, float)) else type(value).__name__


def _ending(sample: Mapping[str, Json]) -> tuple[Status | None, str | None]:
    """How a sample ended; one that is kept out of the loss is masked, however it ended."""
    status = sample.get("status")
    word = status.value if isinstance(status, Foreign) else status
    if not isinstance(word, str) or word not in _STATUS:
        message = f"`status` is {_short(word)}, expected one of {', '.join(_STATUS)}"
        raise RowError(message)
    ending, finish_reason = _STATUS[word]
    return "masked" if sample.get("remove_sample") is True else ending, finish_reason


def _prompt(prompt: Json) -> tuple[str, list[Json] | None]:
    """The prompt as text, which is one with the chat template in it or is made of messages, and these."""
    if isinstance(prompt, str):
        return prompt, None
    if prompt is None:
        return "", None
    messages = as_json(prompt)
    return prompt_text(messages_of(messages, name="prompt")), messages


def _reward(reward: Json) -> tuple[float | None, list[RewardPart]]:
    """A number, or the numbers of a dictionary, none of which is known to be the total."""
    if isinstance(reward, dict):
        return None, [RewardPart(key, _finite(item)) for key, item in reward.items() if isinstance(item, (int, float))]
    if reward is not None and not isinstance(reward, (int, float)):
        message = f"`reward` is {_short(reward)}, expected a number"
        raise RowError(message)
    return _finite(reward), []


def _finite(item: Json) -> float | None:
    value = number(item)
    return value if value is not None and value - value == 0 else None


def _versioned(turns: list[Turn], versions: Json) -> list[Turn]:
    """The turns, with the version of the weights that generated each, where as many of them were logged."""
    if not isinstance(versions, list) or len(versions) != len(turns):
        return turns
    return [
        Turn(turn.index, turn.finish_reason, str(version) if isinstance(version, (str, int)) else None)
        for turn, version in zip(turns, versions, strict=True)
    ]


def _tokens(sample: Mapping[str, Json]) -> Tokens | None:
    """The tokens, which a custom rollout may leave as tensors."""
    try:
        values = {key: _listed(sample[key]) for key in _TOKENS if key in sample}
    except PickleRefused as error:
        raise RowError(error.message) from error
    return tokens_of(values)


def _listed(value: Json) -> Json:
    return value.tolist() if isinstance(value, Array) else value


def _images(inputs: Json) -> list[Image]:
    """The images of the prompt, by the hash of their pixels."""
    pictures = inputs.get("images") if isinstance(inputs, dict) else None
    found: list[Image] = []
    for picture in pictures if isinstance(pictures, list) else ():
        if isinstance(picture, Foreign):
            image = picture.picture()
            found += [] if image is None else [image]
        else:
            found += image_of(picture)
    return found


def _extra(sample: Mapping[str, Json], row: Row, *, versioned: bool) -> dict[str, Json]:
    """What else the sample and its file hold, empty values left out."""
    kept = {key: item for key, item in sample.items() if key not in _READ and key not in _NOT_NEEDED}
    if versioned:
        kept.pop("weight_versions")
    if isinstance(sample.get("reward"), dict):
        kept["reward"] = {key: item for key, item in sample["reward"].items() if not isinstance(item, (int, float))}
    kept |= {f"file.{key}" if key in kept else key: item for key, item in row.value.items() if key not in _FILE}
    return {key: as_json(item) for key, item in kept.items() if not _is_empty(item)}


def _is_empty(item: Json) -> bool:
    return item is None or item is False or (isinstance(item, (list, dict)) and not item)


_FILE = frozenset({"rollout_id", "samples"})

PARSER = Parser(
    name="slime",
    trainer="slime",
    producer="slime and miles with `--dump-details`; seen: THUDM/slime@624b824a898a, radixark/miles@31f1ca961a94",
    containers=("pickle",),
    claims=claims,
    parse=parse,
    carries=("step", "token_ids", "tool_calls", "tool_results", "turns"),
    optional={
        "data_source": "put `data_source` into the metadata of the data set that `--metadata-key` names",
        "declared_tools": "name the column of tools with `--tool-key`, so that the chat template writes them",
        "finish_reason": "a sample that is still pending has none",
        "ground_truth": "name the column of the answers with `--label-key`",
        "group_id": "samples of evaluation have none; the prompt tells",
        "images": "name the columns of images with `--multimodal-keys`",
        "logprobs": "a custom rollout has to ask for them with `return_logprob`",
        "reward": "a reward that is a dictionary is in the fields of the same names; name the one of `--reward-key`",
        "reward_parts": "let the reward function give a dictionary, and name its total with `--reward-key`",
    },
    lacks={
        "advantage": "slime writes it into `train_data/` of the same dump, which is not read",
        "correctness": "name a threshold of the reward, or a field of it, that means correct",
        "entropies": "slime writes none; re-score the log with a model",
    },
    drops_uniform_groups="--dynamic-sampling-filter-path",
    layout=_LAYOUT,
    own_names={"label": "ground_truth", "group_index": "group_id", "index": "sample_index"},
)
