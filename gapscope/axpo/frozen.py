"""What is frozen of a rollout: its token ids up to the branch point, or else text that would have to be tokenised."""

from itertools import groupby

from msgspec.structs import replace

from gapscope.errors import InputError
from gapscope.plans import PrefixContent
from gapscope.rollouts import Json, Rollout, ToolCall
from gapscope.store.token_rows import prefix_hash


def frozen(rollout: Rollout, number: int, *, exact: bool, identity: int | None) -> PrefixContent:
    """The prefix of a rollout that ends behind the opening delimiter of its call `number`.

    `identity` is the hash that the ids of an `exact` prefix had when the log was read.

    Raises:
        InputError: the rollout has no such call any more, or other tokens.

    """
    call = next((each for each in rollout.calls if each.index == number), None)
    if call is None or call.body_start is None:
        raise _changed(rollout)
    structured = _is_structured(rollout, call)
    ids = None
    if exact:
        if call.tokens is None or rollout.tokens is None or rollout.tokens.ids is None:
            raise _changed(rollout)
        if prefix_hash(rollout.tokens, call.tokens.branch) != identity:
            raise _changed(rollout)
        ids = rollout.tokens.ids[: call.tokens.branch]
    return PrefixContent(
        exact=exact,
        token_ids=ids,
        n_tokens=None if ids is None else len(ids),
        n_prompt=rollout.tokens.n_prompt if ids is not None and rollout.tokens else None,
        masked=[] if ids is None else _masked(rollout, len(ids)),
        prompt=rollout.prompt,
        messages=_messages(rollout, call) if structured else rollout.messages,
        text=rollout.output[: call.body_start],
        branch_char=call.body_start,
        delimited=not structured,
    )


def _masked(rollout: Rollout, end: int) -> list[tuple[int, int]]:
    """The stretches of the first tokens, behind the prompt, that the policy did not write."""
    tokens = rollout.tokens
    if tokens is None or tokens.sampled is None:
        return []
    found, position = [], tokens.n_prompt or 0
    for own, run in groupby(tokens.sampled[position:end]):
        size = sum(1 for _ in run)
        if not own:
            found.append((position, position + size))
        position += size
    return found


def _is_structured(rollout: Rollout, call: ToolCall) -> bool:
    """Whether the log held the call apart from the text, so that its delimiters are not in it."""
    if rollout.output_origin != "joined" or call.span is None:
        return False
    span = rollout.spans[call.span]
    return rollout.output[span.start : span.end].removesuffix("\n") == call.raw


def _messages(rollout: Rollout, call: ToolCall) -> Json:
    """The messages up to the call, the last of them what the assistant had said in its turn; None if not logged."""
    # Most logs hold no messages, and what talks to servers takes long to import.
    from gapscope.axpo.rendering import said
    from gapscope.serving.transport import RequestRefused

    if not isinstance(rollout.messages, list) or call.span is None:
        return None
    before = rollout.spans[: call.span]
    try:
        after = list(said(replace(rollout, spans=before, calls=rollout.calls[: call.index])))
    except RequestRefused:
        return None
    begun = bool(before) and before[-1].sampled and before[-1].turn == call.turn
    return rollout.messages + after + ([] if begun else [{"role": "assistant", "content": ""}])


def _changed(rollout: Rollout) -> InputError:
    source = rollout.source
    message = f"{source.file} has changed since it was read: line {source.line:,} holds another rollout"
    return InputError(message, hint="Read it again; a store does so with `gapscope ingest`.")
