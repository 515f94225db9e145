"""Credentials read from a file that may change while we run.

nats-py reads such a file itself, and never comes back from one that is being written at that moment.
"""

import base64
import re
from pathlib import Path

import nkeys  # pyright: ignore[reportMissingTypeStubs] # has none
from nats.errors import Error

CREDS_BYTES_MAX = 64 * 1024
_BLOCK = re.compile(rb"-+BEGIN ([A-Z ]+)-+\s+([A-Za-z0-9_.\-]+)\s+-+END [A-Z ]+-+")


class BadCredentials(Error):
    """The file is missing or holds no user JWT and seed; tried again at the next connect."""


class Credentials:
    """A creds file; what was last read whole is kept."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._jwt = b""
        self._seed = b""

    def sign(self, nonce: str) -> bytes:
        """Answer the server's challenge with what the file holds now."""
        self.read()
        pair = nkeys.from_seed(bytearray(self._seed))
        signed = pair.sign(nonce.encode())
        pair.wipe()
        return base64.b64encode(signed)

    def jwt(self) -> bytearray:
        return bytearray(self._jwt)

    def read(self) -> None:
        """Read the file; half of one changes nothing.

        Raises:
            BadCredentials: It holds no credentials, and never did.
        """
        try:
            with self.path.open("rb") as file:
                blocks = dict(_BLOCK.findall(file.read(CREDS_BYTES_MAX)))
        except OSError as error:
            blocks = {}
            reason = str(error)
        else:
            reason = f"{self.path} holds no user JWT and seed"
        jwt, seed = blocks.get(b"NATS USER JWT"), blocks.get(b"USER NKEY SEED")
        if jwt and seed:
            self._jwt, self._seed = jwt, seed
        elif not self._jwt:
            raise BadCredentials(f"nats: no credentials: {reason}")
