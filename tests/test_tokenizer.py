"""The bytes of tokens: joined they are what the tokenizer itself decodes to."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_tokenizer import ADDED, SPECIAL, byte_level, sentence_pieces
from tokenizers import Tokenizer

from gapscope.errors import SettingsError, TokenizerError
from gapscope.tokenizer import Vocabulary, load_vocabulary


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[Tokenizer, Vocabulary]:
    folder = tmp_path_factory.mktemp("model")
    return byte_level(folder), load_vocabulary(folder)


@given(text=st.text())
def test_the_pieces_of_any_text_join_to_its_bytes(tiny: tuple[Tokenizer, Vocabulary], text: str) -> None:
    tokenizer, vocabulary = tiny
    pieces = vocabulary.pieces(tokenizer.encode(text).ids)
    assert pieces is not None
    assert b"".join(pieces) == text.encode()


def test_added_tokens_are_their_own_text_and_only_some_are_special(tiny: tuple[Tokenizer, Vocabulary]) -> None:
    tokenizer, vocabulary = tiny
    for text in (*SPECIAL, *ADDED):
        index = tokenizer.token_to_id(text)
        assert vocabulary.pieces([index]) == [text.encode()]
        assert (index in vocabulary.special) == (text in SPECIAL)


def test_sentence_pieces_have_blanks_and_bytes(tmp_path: Path) -> None:
    tokenizer = sentence_pieces(tmp_path)
    vocabulary = load_vocabulary(tmp_path / "tokenizer.json")
    ids = [tokenizer.token_to_id(token) for token in ("▁calc", "(", "1", "<0xC3>", "<0xA9>", "</s>")]
    assert vocabulary.pieces(ids) == [b" calc", b"(", b"1", b"\xc3", b"\xa9", b"</s>"]


@pytest.mark.parametrize("token", [10**6, -1])
def test_an_id_that_the_tokenizer_does_not_have_gives_nothing(tiny: tuple[Tokenizer, Vocabulary], token: int) -> None:
    assert tiny[1].pieces([0, token]) is None


def test_a_tokenizer_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=r"no tokenizer at .*tokenizer\.json"):
        load_vocabulary(tmp_path)


def test_a_file_that_is_no_tokenizer_is_said(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text('{"model": 7}')
    with pytest.raises(TokenizerError, match="is no tokenizer"):
        load_vocabulary(tmp_path)


def test_a_kind_of_tokenizer_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    byte_level(tmp_path)
    file = tmp_path / "tokenizer.json"
    content = json.loads(file.read_text())
    content["decoder"] = {"type": "WordPiece", "prefix": "##", "cleanup": True}
    file.write_text(json.dumps(content))
    with pytest.raises(TokenizerError, match="WordPiece"):
        load_vocabulary(tmp_path)


def test_without_the_library_the_extra_is_named(tmp_path: Path) -> None:
    byte_level(tmp_path)
    program = "import sys; sys.modules['tokenizers'] = None\nfrom gapscope.tokenizer import load_vocabulary\n"
    program += f"try: load_vocabulary({str(tmp_path)!r})\nexcept Exception as error: print(repr(error), error.hint)"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout.startswith(SettingsError.__name__)
    assert "gapscope[tokens]" in ran.stdout
