"""Settings of the gateway: where it listens, which providers stand behind it, how long it holds a call."""

import json
import os
import tomllib
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Literal, cast

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from events.words import HoldMode
from services.gateway.context import Dialect
from services.kit.errors import Refused
from services.kit.settings import SECRET_BYTES_MAX, ServiceSettings

BODY_BYTES_MAX = 32 * 1024 * 1024
"""What the providers take at most."""


class Upstream(BaseModel):
    """A provider of models, or a server of one's own that speaks as one."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, Field(pattern=r"^[a-z0-9_-]{1,63}$")]
    protocol: Dialect
    base_url: Annotated[str, Field(pattern=r"^https?://[^\s?#]+$")]
    """Without `/v1`."""
    credential: str = Field(default="", repr=False)
    """A secret; better by `credential_env` or `credential_file`. None of the three: the provider asks for none."""
    credential_env: str = ""
    credential_file: Path | None = None
    header: Literal["x-api-key", "bearer"] | None = None
    """How the credential is shown; None: as the protocol's providers have it."""
    models: Annotated[tuple[str, ...], Field(min_length=1)] = ("*",)
    """Shell-style patterns of what it offers; the first upstream of the protocol that offers a model is asked."""
    price_provider: str | None = None
    """Whose prices count; None: `name`."""
    output_tokens_default: int = Field(default=8_192, ge=1)
    """`max_tokens` of a request that names none."""
    context_tokens_max: int = Field(default=1_000_000, ge=1)
    """The largest input that it takes."""
    connect_s: float = Field(default=10.0, gt=0)
    silence_s: float = Field(default=300.0, gt=0)
    """How long it may say nothing, before the first byte or between two."""
    requests_per_minute: float = Field(default=0.0, ge=0)
    """Our own limit of what it is asked; 0: none."""
    tokens_per_minute: float = Field(default=0.0, ge=0)
    """Of the worst case of input and output; 0: none."""
    concurrent_max: int = Field(default=0, ge=0)
    """0: none."""

    def offers(self, model: str) -> bool:
        return any(fnmatchcase(model, pattern) for pattern in self.models)

    def auth(self) -> dict[str, str]:
        """Return the header that shows the credential."""
        secret = self.secret()
        if not secret:
            return {}
        style = self.header or ("x-api-key" if self.protocol is Dialect.ANTHROPIC else "bearer")
        return {"x-api-key": secret} if style == "x-api-key" else {"Authorization": f"Bearer {secret}"}

    def secret(self) -> str:
        """Return the credential; read anew each time, so that a rotated file counts at once.

        Raises:
            Refused: The file cannot be read, or the variable is not set.
        """
        if self.credential:
            return self.credential
        if self.credential_env:
            value = os.environ.get(self.credential_env, "")
            if not value:
                raise Refused(f"upstream {self.name}: the variable {self.credential_env} is not set")
            return value
        if self.credential_file is None:
            return ""
        try:
            with self.credential_file.open(encoding="utf-8") as file:
                return file.read(SECRET_BYTES_MAX).strip()
        except OSError as error:
            raise Refused(f"upstream {self.name}: its credential cannot be read: {error}") from error


_UPSTREAMS: TypeAdapter[tuple[Upstream, ...]] = TypeAdapter(tuple[Upstream, ...])


class GatewaySettings(ServiceSettings):
    """Where models are called through, which providers stand behind it, and how long a call is held."""

    gateway_host: str = "127.0.0.1"
    """The address that agents reach."""
    gateway_port: int = Field(default=8002, ge=0, le=65_535)
    """0: a free one."""
    anthropic_api_key: str = Field(
        default="", validation_alias=AliasChoices("AUTOVIBE_ANTHROPIC_API_KEY", "ANTHROPIC_API_KEY"), repr=False
    )
    """The key of Anthropic; with it alone the gateway works."""
    anthropic_url: str = "https://api.anthropic.com"
    """Where Anthropic's API is."""
    openai_api_key: str = Field(
        default="", validation_alias=AliasChoices("AUTOVIBE_OPENAI_API_KEY", "OPENAI_API_KEY"), repr=False
    )
    """The key of OpenAI, or of who speaks as it at `openai_url`."""
    openai_url: str = "https://api.openai.com"
    """Where OpenAI's API is, without `/v1`."""
    gateway_upstreams_file: Path | None = None
    """A TOML or JSON file with more providers, `[[upstreams]]`; they are asked before the two above."""
    gateway_upstreams: tuple[Upstream, ...] = Field(default=(), repr=False)
    """The same as JSON, asked before those of the file."""
    gateway_hold_mode: HoldMode = HoldMode.CLAMPED
    """What is set aside when the worst case of a call is more than there is."""
    gateway_wait_s: float = Field(default=300.0, ge=0, le=600)
    """How long a streaming call may wait for budget that others have reserved."""
    gateway_wait_silent_s: float = Field(default=90.0, ge=0, le=600)
    """The same for a call that cannot be kept alive: it does not stream."""
    gateway_keepalive_after_s: float = Field(default=50.0, gt=0)
    """A streaming call that is held longer is answered 200 and kept alive; until then it can still be refused by status."""
    gateway_keepalive_every_s: float = Field(default=15.0, gt=0)
    """The pause between two signs of life."""
    gateway_observe_after_s: float = Field(default=2.0, ge=0, le=60)
    """When a stream has lasted for so long, the log hears what went in: should the hub die, less has to be guessed."""
    gateway_checkpoint_s: float = Field(default=30.0, gt=0, le=60)
    """How long a call is held for a checkpoint; then it goes on without."""
    gateway_drain_s: float = Field(default=10.0, ge=0, le=60)
    """How long an answer is still read, for its usage, when whoever asked has gone."""
    gateway_call_s_max: float = Field(default=3_600.0, gt=0)
    """The longest that one answer may take."""
    gateway_answer_bytes_max: int = Field(default=256 * 1024 * 1024, ge=1024)
    """The largest answer; a longer one is cut."""
    gateway_body_s: float = Field(default=120.0, gt=0)
    """How long a client may take to send a request."""
    gateway_stop_s: float = Field(default=20.0, ge=0, le=300)
    """How long open calls may still finish when the gateway is told to end."""
    gateway_connections_max: int = Field(default=2_000, ge=1)
    """Calls open at once; more are told to ask again."""
    gateway_server_tools_uses_max: int = Field(default=0, ge=0, le=100)
    """How often one call may use a tool that runs at the provider (web search); 0: such calls are refused."""
    gateway_rate_wait_s: float = Field(default=60.0, ge=0, le=300)
    """A provider's rate limit that ends sooner is waited out here; for a longer one the machine parks until it ends."""
    gateway_project_requests_per_minute: float = Field(default=0.0, ge=0)
    """Our own limit of one project's calls; 0: none."""
    gateway_project_tokens_per_minute: float = Field(default=0.0, ge=0)
    """Of the worst case of input and output; 0: none."""
    gateway_machine_requests_per_minute: float = Field(default=0.0, ge=0)
    """Our own limit of one machine's calls; 0: none."""
    gateway_machine_tokens_per_minute: float = Field(default=0.0, ge=0)
    """Of the worst case of input and output; 0: none."""
    gateway_machine_concurrent_max: int = Field(default=32, ge=0)
    """Calls of one machine that are with providers at once; more wait; 0: no limit."""

    def upstreams(self) -> tuple[Upstream, ...]:
        """Return all providers, those that are asked first first.

        Raises:
            Refused: The file cannot be read, or is not what it should be.
        """
        found = [*self.gateway_upstreams, *_read(self.gateway_upstreams_file)]
        if self.anthropic_api_key:
            found.append(
                Upstream(
                    name="anthropic",
                    protocol=Dialect.ANTHROPIC,
                    base_url=self.anthropic_url.rstrip("/"),
                    credential=self.anthropic_api_key,
                )
            )
        if self.openai_api_key:
            found.append(
                Upstream(
                    name="openai",
                    protocol=Dialect.OPENAI,
                    base_url=self.openai_url.rstrip("/"),
                    credential=self.openai_api_key,
                )
            )
        return tuple(found)


def upstream_of(upstreams: Sequence[Upstream], protocol: Dialect, model: str) -> Upstream | None:
    return next((one for one in upstreams if one.protocol is protocol and one.offers(model)), None)


def _read(path: Path | None) -> tuple[Upstream, ...]:
    if path is None:
        return ()
    try:
        text = path.read_text("utf-8")
        found = cast("object", json.loads(text) if path.suffix == ".json" else tomllib.loads(text))
        listed = cast("dict[str, object]", found).get("upstreams") if isinstance(found, dict) else found
        return _UPSTREAMS.validate_python(listed)
    except (OSError, ValueError, ValidationError) as error:
        raise Refused(f"upstreams in {path}: {error}; a TOML file with [[upstreams]] is needed") from error
