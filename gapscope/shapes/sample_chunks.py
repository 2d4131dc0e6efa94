"""Inspect's chunked samples: one sample as many members of an archive, put together to the shape of one that is whole.

`samples/{id}_epoch_{n}/` holds `sample.json`, and sequences of messages, events and attachments cut into members that
are named by the index of their first item. References go by index: messages by ranges, attachments by number.
"""

import re
from typing import NamedTuple

from gapscope.rollouts import Json
from gapscope.rows import Row, RowError

_PLACE = re.compile(
    r"(?P<sample>samples/.+_epoch_[0-9]{1,9})/"
    r"(?:(?P<single>sample|metadata|skeleton)|(?P<sequence>messages|events|calls|attachments)/(?P<start>[0-9]{1,12}|stats|uuids))"
    r"\.json",
    re.DOTALL,
)


class Place(NamedTuple):
    """Which part of which sample a member is; `start` is None for what is no piece of a sequence."""

    sample: str
    part: str
    start: int | None


def place_of_member(name: str) -> Place | None:
    """The place of a member by its name; None for a sample that is whole, and for anything else."""
    match = _PLACE.fullmatch(name)
    if match is None:
        return None
    start = match["start"]
    return Place(
        match["sample"], match["single"] or match["sequence"], int(start) if start and start.isdigit() else None
    )


class ChunkedSample:
    """The members of one sample, taken one after another; of events only what a record needs is kept."""

    def __init__(self, name: str, row: Row) -> None:
        self.name = name
        self.row = row
        self._shell: Json = None
        self._metadata: Json = None
        self._messages: dict[int, list[Json]] = {}
        self._attachments: dict[int, list[Json]] = {}
        self._events: list[Json] = []
        self._tools: Json = None

    def take(self, place: Place, content: Json) -> None:
        """Take the content of a member."""
        if place.part == "sample":
            self._shell = content
        elif place.part == "metadata":
            self._metadata = content
        elif place.start is not None and isinstance(content, list):
            if place.part == "messages":
                self._messages[place.start] = content
            elif place.part == "attachments":
                self._attachments[place.start] = content
            elif place.part == "events":
                self._events += [self._reduced(event) for event in content if _is_of_use(event)]

    def _reduced(self, event: dict[str, Json]) -> Json:
        """An event with the tools that the model was offered, which are kept once where they stay the same."""
        tools = event.get("tools")
        if tools and tools != self._tools:
            self._tools = tools
        return {"event": event["event"], "tools": self._tools if tools else None}

    def whole(self) -> dict[str, Json]:
        """The sample as it is where it is one member.

        Raises:
            RowError: `sample.json` is missing, or some of the messages are.

        """
        if not isinstance(self._shell, dict):
            message = "its sample.json is missing, or no object"
            raise RowError(message)
        pool = _sequence(self._messages, "messages")
        messages: list[Json] = []
        references = self._shell.get("message_refs")
        for reference in references if isinstance(references, list) else []:
            start, end = reference if isinstance(reference, list) and len(reference) == 2 else (None, None)
            if type(start) is not int or type(end) is not int or not 0 <= start <= end <= len(pool):
                message = f"its messages {reference!r:.40} are missing: there are {len(pool):,}"
                raise RowError(message)
            messages += pool[start:end]
        attachments = {str(index): text for index, text in enumerate(_sequence(self._attachments, "attachments"))}
        sample = {key: item for key, item in self._shell.items() if key != "message_refs"}
        metadata = {} if self._metadata is None else {"metadata": self._metadata}
        return {**sample, **metadata, "messages": messages, "attachments": attachments, "events": self._events}


def _sequence(chunks: dict[int, list[Json]], name: str) -> list[Json]:
    items: list[Json] = []
    for start in sorted(chunks):
        if start != len(items):
            message = f"its {name} from {len(items):,} on are missing"
            raise RowError(message)
        items += chunks[start]
    return items


def _is_of_use(event: Json) -> bool:
    return isinstance(event, dict) and event.get("event") in ("model", "compaction")
