"""A conversation as a graph of messages, and one branch of it: what was said, its tokens and their numbers.

A node is one message with the tokens that it adds to those of its parent, the template's scaffold included.
Log-probs and their kin are compact: one number per true entry of `mask`.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Annotated

import msgspec

from gapscope.rollouts import Json, Tokens
from gapscope.rows import RowError
from gapscope.shapes.conversations import Call, Message, json_text, message_of
from gapscope.shapes.token_exports import Values

Integer = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]


class Node(msgspec.Struct, frozen=True, gc=False):
    """One message; what is absent was not logged."""

    message: Json
    parent: Integer | None = None
    sampled: bool = False
    semantic_parents: list[dict[str, Json]] | None = None
    tools: list[Json] | None = None
    token_ids: list[int] | None = None
    mask: list[bool] | None = None
    logprobs: Values | None = None
    trainer_logprobs: Values | None = None
    entropies: Values | None = None
    advantages: Values | None = None


class Branch(msgspec.Struct, frozen=True):
    """A path from a root to a leaf, by the indices of its nodes; `own` are those that the policy wrote in it.

    A sampled node that several branches share is the policy's in the first of them; in the others it is context.
    """

    path: list[int]
    own: list[int]
    trained: bool


def branches_of(nodes: Sequence[Node]) -> list[Branch]:
    """One branch per leaf, in the order of the leaves.

    An attempt to compact the history is a leaf of its own; it trains only where the agent went on from it.

    Raises:
        RowError: the parent of a node is no earlier node.

    """
    for index, node in enumerate(nodes):
        if node.parent is not None and not 0 <= node.parent < index:
            message = f"`nodes[{index}].parent` is {node.parent}, expected an earlier node"
            raise RowError(message)
    parents = {node.parent for node in nodes}
    resumed = {source for node in nodes for source in _linked(node, "compaction") if type(source) is int}
    taken: set[int] = set()
    branches = []
    for leaf in range(len(nodes)):
        if leaf in parents:
            continue
        path = _path(nodes, leaf)
        own = [index for index in path if nodes[index].sampled and index not in taken]
        taken.update(own)
        attempt = any(True for _ in _linked(nodes[leaf], "compaction_attempt"))
        branches.append(Branch(path, own, trained=not attempt or leaf in resumed))
    return branches


def _path(nodes: Sequence[Node], leaf: int) -> list[int]:
    path = [leaf]
    while (parent := nodes[path[-1]].parent) is not None:
        path.append(parent)
    return path[::-1]


def _linked(node: Node, kind: str) -> Iterator[Json]:
    return (link.get("node") for link in node.semantic_parents or () if link.get("type") == kind)


def message_in(item: Json) -> Message:
    """A message whose calls may be of custom tools, too.

    Raises:
        RowError: it is no message.

    """
    message = message_of(item)
    entries = item.get("tool_calls") if message.calls else None
    if not isinstance(entries, list) or len(entries) != len(message.calls):
        return message
    calls = (
        _custom(call, entry) if isinstance(entry, dict) and entry.get("type") == "custom" else call
        for call, entry in zip(message.calls, entries, strict=True)
    )
    return message._replace(calls=tuple(calls))


def _custom(call: Call, entry: Mapping[str, Json]) -> Call:
    """A custom tool takes one text, which is no JSON and need not be any."""
    arguments = {"input": entry.get("arguments")}
    return call._replace(arguments=arguments, valid=True, raw=json_text({"name": call.name, "arguments": arguments}))


def tokens_of(nodes: Sequence[Node], branch: Branch) -> Tokens | None:
    """The ids along a branch, and the numbers of the sampled ones where they stand.

    Raises:
        RowError: a mask is not parallel to its ids, or a stream has not one number per sampled token.

    """
    path, own = branch.path, frozenset(branch.own)
    ids: list[int] = []
    sampled: list[bool] = []
    for index in path:
        node = nodes[index]
        added, mask = node.token_ids or [], node.mask or []
        if len(mask) != len(added):
            if mask or index in own:
                message = f"`nodes[{index}].mask` has {len(mask)} values for {len(added)} `token_ids`"
                raise RowError(message)
            mask = [False] * len(added)
        ids += added
        sampled += mask if index in own else [False] * len(added)
    if not ids:
        return None
    engine, trainer = (_spread(nodes, path, own, name) for name in ("logprobs", "trainer_logprobs"))
    logprobs, source = (trainer, "trainer") if engine is None else (engine, "rollout")
    entropies = _spread(nodes, path, own, "entropies")
    return Tokens(
        ids=ids,
        n_prompt=sampled.index(True) if any(sampled) else len(ids),
        logprobs=logprobs,
        logprob_source=None if logprobs is None else source,
        entropies=entropies,
        entropy_kind=None if entropies is None else "full",
        sampled=sampled,
        trainer_logprobs=None if engine is None else trainer,
    )


def _spread(nodes: Sequence[Node], path: list[int], own: Collection[int], name: str) -> Values | None:
    """A compact stream at the places of its tokens; None where no node has any."""
    spread: Values = []
    for index in path:
        node = nodes[index]
        mask = node.mask if index in own and node.mask else [False] * len(node.token_ids or ())
        values: Values = getattr(node, name) or []
        if index in own and values and len(values) != sum(mask):
            message = f"`nodes[{index}].{name}` has {len(values)} values for {sum(mask)} sampled tokens"
            raise RowError(message)
        spread += placed(values, mask)
    return spread if spread.count(None) < len(spread) else None


def placed(values: Sequence[float | None], mask: list[bool]) -> Values:
    """Compact numbers at the places where the mask is true."""
    if not values:
        return [None] * len(mask)
    following = iter(values)
    return [next(following, None) if sampled else None for sampled in mask]
