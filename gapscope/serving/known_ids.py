"""Where the ids that a tokenizer knows end, found out from what it makes of ids."""

from collections.abc import Awaitable, Callable, Sequence

from gapscope.serving.transport import RequestRefused

Spell = Callable[[Sequence[int]], Awaitable[str]]
_CONFIRMED = 16


async def known_ids(size: int, spell: Spell) -> int | None:
    """One more than the last id below `size` that the tokenizer knows; None where it knows none, or it stays unclear.

    Raises:
        RequestRefused: ids that should be known are not spelled.

    """
    # Behind a first token, as some tokenizers drop the space that a text begins with.
    first = await spell([0])

    async def text_from(start: int) -> bool:
        return await spell([0, *range(start, size)]) != first

    async def is_spelled(token: int) -> bool:
        try:
            await spell([token])
        except RequestRefused:
            return False
        return True

    if await is_spelled(size - 1):
        # Unknown ids spell nothing. Each question is about all from an id on, so that gaps do not mislead.
        return await _end(size, text_from)
    end = await _end(size, is_spelled)
    if end is None:
        return None
    # Unknown ids are refused, one by one: none that was passed over may be known.
    step = max(1, (size - end) // _CONFIRMED)
    return None if any([await is_spelled(token) for token in range(end, size, step)]) else end


async def _end(size: int, known: Callable[[int], Awaitable[bool]]) -> int | None:
    """The least `end` with nothing known from it on; looked for from the back, where the padding is."""
    end, width = size, 1
    while not await known(max(0, size - width)):
        end = max(0, size - width)
        if end == 0:
            return None
        width *= 2
    last = max(0, size - width)
    while end - last > 1:
        middle = (last + end) // 2
        if await known(middle):
            last = middle
        else:
            end = middle
    return end
