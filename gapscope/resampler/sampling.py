"""What a sampler is: something that goes on where a prefix ends, one turn of the policy at a time."""

from collections.abc import Sequence
from typing import Literal, NamedTuple, Protocol

import msgspec

from gapscope.failures import Failure
from gapscope.plan_options import Sampling
from gapscope.plans import PlannedPrefix
from gapscope.tools.base import ToolResult

IMAGE = "\ufffc"
"""Stands in a text where an image does, until a sampler puts in what its model reads there."""

Guarantee = Literal["token_exact", "ids_unverified", "text_retokenised", "text"]
"""What is known of the tokens that were continued.

`token_exact`: the server has said that they are those of the plan. `ids_unverified`: those of the plan were sent, and
the server does not say what it read. `text_retokenised`: the server has tokenised the plan's text, or what it has
sampled, into ids that are known. `text`: the server was sent text, and which tokens that gives is not known; limits of
tokens then hold for each turn by itself.
"""


class Context(msgspec.Struct, frozen=True, kw_only=True):
    """All that the policy reads before it samples a turn: the prompt, what it wrote, and what tools answered.

    `ids` are None where a server tells nothing about tokens; `text` is the same in characters, from the prompt's first.
    `images` are encoded, in the order in which they stand in the text, in which each is one token.
    """

    text: str
    ids: list[int] | None
    images: tuple[bytes, ...] = ()
    guarantee: Guarantee


class Ask(NamedTuple):
    """One turn to sample: `stop` are texts at which it ends, and which it keeps; a `grammar` (EBNF) binds all of it."""

    seed: int
    max_tokens: int | None
    stop: Sequence[str]
    sampling: Sampling
    grammar: str | None = None


class Sampled(NamedTuple):
    """What the policy said in one turn.

    `ids` and natural `logprobs` have one entry for each token, the end-of-turn token included. `text` is what `ids`
    spell, special tokens included. `ended` is false where the token limit cut it off. Where it is not `whole`, special
    tokens and what it was stopped at may be missing: the server gives no ids, and those here are made of the text.
    """

    text: str
    ids: list[int] | None
    logprobs: list[float | None] | None
    ended: bool
    whole: bool = True


class NotSampled(Failure):
    """What came back is no sample of the policy: aborted, cut off by the context, or not a token of its vocabulary."""


class Sampler(Protocol):
    """What continues prefixes: a server, or a model in this process."""

    async def begin(self, prefix: PlannedPrefix) -> Context:
        """What is frozen of a prefix, ready to be continued.

        Raises:
            NotSampled: it cannot be continued here, with the reason.

        """

    async def sample(self, context: Context, ask: Ask) -> tuple[Sampled, Context]:
        """One turn, and the context with it.

        Raises:
            NotSampled: there is no sample.

        """

    async def tell(self, context: Context, text: str, results: Sequence[ToolResult]) -> Context:
        """The context with what the environment says, behind the policy's turn; its tokens are not the policy's.

        `text` is how the trainer writes the results, with IMAGE where each of their images stands.

        Raises:
            NotSampled: this cannot be said here.

        """
