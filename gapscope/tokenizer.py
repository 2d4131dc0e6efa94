"""The text of tokens, read from a tokenizer on disk: what aligns token ids with the text of a rollout.

Ids are turned into bytes and never text into ids: what a model sampled need not be what a tokenizer makes of its text.
"""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import msgspec

from gapscope.errors import SettingsError, TokenizerError
from gapscope.rollouts import Json

_FILE = "tokenizer.json"
_SUPPORTED = (
    "Tokenizers whose tokens are bytes (`ByteLevel`) or SentencePiece's (`Metaspace`, `ByteFallback`) can be read."
)


class _File(msgspec.Struct):
    decoder: Json = None


class Vocabulary(NamedTuple):
    """The bytes of every token by its id, None where an id is not used, and which tokens are special."""

    path: str
    bytes_of: list[bytes | None]
    special: frozenset[int]

    def pieces(self, ids: Sequence[int]) -> list[bytes] | None:
        """The bytes of these tokens; None if one of the ids is not of this tokenizer."""
        try:
            found = [self.bytes_of[token] for token in ids]
        except IndexError:
            return None
        return None if None in found or min(ids, default=0) < 0 else found  # type: ignore[return-value]


def load_vocabulary(path: str | Path) -> Vocabulary:
    """The vocabulary of a `tokenizer.json`, or of the one in a model's folder; nothing is ever downloaded.

    Raises:
        SettingsError: the library `tokenizers` is not installed.
        TokenizerError: there is no such file, or it is none that can be read.

    """
    file = Path(path)
    file = file / _FILE if file.is_dir() else file
    if not file.is_file():
        message = f"no tokenizer at {file}"
        raise TokenizerError(message, hint=f"Name a `{_FILE}`, or the folder of a model that holds one.")
    return _loaded(str(file.resolve()))


@cache
def _loaded(path: str) -> Vocabulary:
    try:
        from tokenizers import Tokenizer
    except ImportError:
        message = "the library `tokenizers` is not installed"
        raise SettingsError(message, hint="Run `pip install 'gapscope[tokens]'`.") from None
    text = Path(path).read_bytes()
    try:
        decoder = msgspec.json.decode(text, type=_File).decoder
        tokenizer = Tokenizer.from_buffer(text)
    except Exception as error:  # noqa: BLE001 (the library raises nothing else)
        message = f"{path} is no tokenizer: {str(error)[:200]}"
        raise TokenizerError(message) from None
    return vocabulary_of(tokenizer, decoder, path)


def vocabulary_of_model(tokenizer: Json) -> Vocabulary | None:
    """The vocabulary of a tokenizer of transformers; None where it is none of the library `tokenizers`.

    Raises:
        TokenizerError: its tokens are neither bytes nor SentencePiece's.

    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return None
    decoder = msgspec.json.decode(backend.to_str(), type=_File).decoder
    return vocabulary_of(backend, decoder, str(tokenizer.name_or_path))


def vocabulary_of(tokenizer: Json, decoder: Json, path: str) -> Vocabulary:
    """The vocabulary of a loaded `tokenizers.Tokenizer`, whose file has this `decoder`.

    Raises:
        TokenizerError: its tokens are neither bytes nor SentencePiece's.

    """
    kinds = _kinds(decoder)
    byte_level = "ByteLevel" in kinds
    if not byte_level and not kinds & {"Metaspace", "ByteFallback"}:
        message = f"{path} has a decoder of type {', '.join(sorted(kinds)) or 'none'}"
        raise TokenizerError(message, hint=_SUPPORTED)
    added = tokenizer.get_added_tokens_decoder()
    vocabulary = tokenizer.get_vocab(with_added_tokens=True)
    bytes_of: list[bytes | None] = [None] * (1 + max(vocabulary.values(), default=-1))
    for token, index in vocabulary.items():
        if index in added:
            bytes_of[index] = added[index].content.encode()
        else:
            bytes_of[index] = _from_byte_level(token) if byte_level else _from_sentencepiece(token)
    return Vocabulary(path, bytes_of, frozenset(index for index, token in added.items() if token.special))


def _kinds(decoder: Json) -> set[str]:
    """The types of a decoder and of those that it is a sequence of."""
    if not isinstance(decoder, dict):
        return set()
    found = {str(decoder.get("type"))}
    for inner in decoder.get("decoders") or ():
        found |= _kinds(inner)
    return found


def _from_byte_level(token: str) -> bytes:
    table = _byte_of()
    try:
        return bytes([table[character] for character in token])
    except KeyError:
        return token.encode()


@cache
def _byte_of() -> dict[str, int]:
    """The byte that each character of a byte-level token stands for (GPT-2's table).

    A printable byte of Latin-1 stands for itself, the others are numbered from U+0100 on.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(0x100) if byte not in printable]
    table = {chr(byte): byte for byte in printable}
    return table | {chr(0x100 + place): byte for place, byte in enumerate(others)}


def _from_sentencepiece(token: str) -> bytes:
    if len(token) == len("<0x00>") and token.startswith("<0x") and token.endswith(">"):
        return bytes([int(token[3:5], 16)])
    return token.replace("▁", " ").encode()
