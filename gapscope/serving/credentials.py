"""What lets us in at a server: its key or a password, where they come from, and that nobody is shown them."""

import base64
import os
from pathlib import Path
from urllib.parse import quote

from gapscope.errors import SettingsError

KEY_VARIABLES = ("VLLM_API_KEY", "OPENAI_API_KEY")
"""Environment variables that may hold the server's key; the first that is set is sent."""

_LONGEST_FILE = 100_000
_CONTENT = "It holds the server's key and nothing else."


class Credentials:
    """The key in `file`, or else in the environment; a user and a password of the address come before either.

    `hint` says what to do where they are not accepted.

    Raises:
        SettingsError: the file cannot be read or is empty, or what is there cannot be a key.

    """

    def __init__(self, file: Path | None, user: str, password: str) -> None:
        key, self.hint = _key(file)
        self._authorization = f"Bearer {key}" if key else ""
        if user or password:
            pair = base64.b64encode(f"{user}:{password}".encode()).decode("ascii")
            self._authorization = f"Basic {pair}"
            self.hint = "Check the user and the password in the address."
        secrets = {key, self._authorization.partition(" ")[2], password, quote(password, safe=""), password or user}
        # The longest first: one may be part of another.
        self._secrets = sorted(filter(None, secrets), key=len, reverse=True)

    @property
    def headers(self) -> dict[str, str]:
        """What each request carries."""
        return {"Authorization": self._authorization} if self._authorization else {}

    def hidden(self, text: str) -> str:
        """A text of the server's without them."""
        for secret in self._secrets:
            text = text.replace(secret, "[key]")
        return text


def _key(file: Path | None) -> tuple[str | None, str]:
    """The key to send, and what to do where it is not accepted."""
    if file is None:
        name = next((name for name in KEY_VARIABLES if os.environ.get(name, "").strip()), None)
        if name is None:
            return None, f"Set the variable {' or '.join(KEY_VARIABLES)} to the server's key."
        key, origin = os.environ[name].strip(), f"the variable {name}"
    else:
        key, origin = _read(file), f"the file {file}"
    if not (key.isascii() and key.isprintable()) or " " in key:
        message = f"{origin} holds something that cannot be a key"
        raise SettingsError(message, hint="A key is one word of ASCII.")
    return key, f"The key is taken from {origin}, and the server wants another."


def _read(file: Path) -> str:
    try:
        with file.open(encoding="utf-8") as stream:
            key = stream.read(_LONGEST_FILE).strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        message = f"the key file {file} cannot be read: {reason}"
        raise SettingsError(message, hint=_CONTENT) from None
    if not key:
        message = f"the key file {file} is empty"
        raise SettingsError(message, hint=_CONTENT)
    return key
