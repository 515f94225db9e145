"""Which hub the commands talk to: the environment, else the file that `autovibe dev` wrote.

`AUTOVIBE_URL` and `AUTOVIBE_API_KEY` win; `AUTOVIBE_CONTEXT` names another file than the usual one.
"""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

from cli.exits import CliError, Exit

DEFAULT_URL = "http://127.0.0.1:8000"


@dataclass(frozen=True, slots=True)
class Context:
    """Addresses and keys of one hub; empty where unknown."""

    url: str = DEFAULT_URL
    store_url: str = ""
    api_key: str = ""
    nats_url: str = ""
    creds: str = ""
    """A creds file for any NATS client."""
    data: str = ""
    """The data directory of an embedded stack."""
    hub_creds: str = ""
    """The services' own creds file: `migrate`, `verify` and `projector` work on the log directly."""
    database_url: str = ""
    gateway_url: str = ""
    """Where agents reach models; only known of an embedded stack, as is `models`."""
    models: str = ""
    """Who answers model calls, in words."""


def default_file() -> Path:
    """Return where the context is looked for when nothing names it."""
    named = os.environ.get("XDG_CONFIG_HOME")
    base = Path(named) if named else Path.home() / ".config"
    return base / "autovibe" / "client.json"


def file_in_use() -> Path:
    return Path(os.environ["AUTOVIBE_CONTEXT"]) if "AUTOVIBE_CONTEXT" in os.environ else default_file()


def load() -> Context:
    """Read the context; the environment wins over the file.

    Raises:
        CliError: The file that was named does not exist or is not a context.
    """
    found = _from_file(file_in_use(), named="AUTOVIBE_CONTEXT" in os.environ)
    return Context(
        url=os.environ.get("AUTOVIBE_URL", found.get("url", DEFAULT_URL)).rstrip("/"),
        store_url=os.environ.get("AUTOVIBE_STORE_URL", found.get("store_url", "")).rstrip("/"),
        api_key=_secret("AUTOVIBE_API_KEY") or found.get("api_key", ""),
        nats_url=os.environ.get("AUTOVIBE_NATS_URL", found.get("nats_url", "")),
        creds=os.environ.get("AUTOVIBE_NATS_CREDS", found.get("creds", "")),
        data=found.get("data", ""),
        hub_creds=os.environ.get("AUTOVIBE_HUB_CREDS", found.get("hub_creds", "")),
        database_url=_secret("AUTOVIBE_DATABASE_URL") or _secret("DATABASE_URL") or found.get("database_url", ""),
    )


def save(context: Context, file: Path) -> None:
    """Write the context for later commands; only the owner may read it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_name(f".{file.name}.{os.getpid()}")
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as out:
        json.dump(asdict(context), out, indent=2)
        out.flush()
        os.fsync(out.fileno())
    draft.rename(file)


def _secret(name: str) -> str:
    """Return a secret from the environment, or from the file that `<name>_FILE` names."""
    if value := os.environ.get(name):
        return value
    path = os.environ.get(f"{name}_FILE")
    if not path:
        return ""
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except OSError as error:
        raise CliError(Exit.USAGE, f"{name}_FILE names {path}, which cannot be read: {error.strerror}") from error


def _from_file(file: Path, *, named: bool) -> dict[str, str]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if named:
            raise CliError(
                Exit.USAGE,
                f"AUTOVIBE_CONTEXT names {file}, which does not exist",
                remedy="`autovibe dev` writes it; or unset AUTOVIBE_CONTEXT",
            ) from None
        return {}
    except (OSError, ValueError) as error:
        raise CliError(Exit.USAGE, f"{file} is no context of autovibe: {error}", remedy=f"remove {file}") from error
    found = cast("dict[str, object]", content) if isinstance(content, dict) else {}
    return {name: str(value) for name, value in found.items()}
