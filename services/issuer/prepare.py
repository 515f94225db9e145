"""Make what a nats-server of our own needs before it first starts: `python -m services.issuer.prepare`.

Keys and creds files that are there stay as they are, so it may run before every start.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from events import fresh
from services.issuer.bootstrap import prepare
from services.issuer.keys import KeyStore, UnsafeKeys, write_secret


def main(arguments: Sequence[str] | None = None) -> int:
    """Return the exit code: 0 made, 1 the key store is open to others or damaged."""
    parser = argparse.ArgumentParser(prog="python -m services.issuer.prepare", description=__doc__)
    parser.add_argument("--keys", type=Path, required=True, help="directory of the signing keys; the issuer's alone")
    parser.add_argument(
        "--creds", type=Path, required=True, help="directory for hub.creds, system.creds, operator.creds"
    )
    parser.add_argument(
        "--resolver", type=Path, required=True, help="where the server keeps accounts, as the server sees it"
    )
    parser.add_argument("--config", type=Path, required=True, help="file to write, for nats.conf to include")
    asked = parser.parse_args(arguments)
    try:
        prepared = prepare(KeyStore(asked.keys), asked.creds, resolver=asked.resolver, at=fresh.now())
    except UnsafeKeys as error:
        sys.stderr.write(f"{error}\n")
        return 1
    write_secret(asked.config, prepared.fragment)
    return 0


if __name__ == "__main__":
    sys.exit(main())
