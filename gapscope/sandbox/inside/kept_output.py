"""The beginning and the end of an output, however long it is."""

import codecs


class KeptOutput:
    """Text of which at most `most` characters are kept, the first half and the last; memory stays flat."""

    def __init__(self, most: int) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._room = most - most // 2
        self._tail_length = most // 2
        self._head: list[str] = []
        self._tail = ""
        self._length = 0

    def add(self, data: bytes, *, last: bool = False) -> None:
        """Bytes as they come, which may end within a character."""
        text = self._decoder.decode(data, last)
        self._length += len(text)
        head, tail = text[: self._room], text[self._room :]
        if head:
            self._head.append(head)
            self._room -= len(head)
        if tail and self._tail_length:
            self._tail = (self._tail + tail)[-self._tail_length :]

    def text(self) -> str:
        """What was kept, with a line that says how much was left out."""
        self.add(b"", last=True)
        head = "".join(self._head)
        left_out = self._length - len(head) - len(self._tail)
        return f"{head}\n[… {left_out} characters left out …]\n{self._tail}" if left_out else head + self._tail
