"""`autovibe dev`: the whole hub on this machine, until Ctrl-C."""

import os
import signal
from pathlib import Path
from typing import Annotated

import typer

from cli import console
from cli.context import Context, default_file, save
from cli.framing import AsJson, framed

DATA = ".data"


@framed
def dev(
    data: Annotated[Path, typer.Option(help="Directory that everything is kept in.")] = Path(DATA),
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65_535, help="HTTP; 0 takes a free one.")] = 8000,
    store_port: Annotated[int, typer.Option(min=0, max=65_535, help="Chunk store.")] = 8001,
    gateway_port: Annotated[int, typer.Option(min=0, max=65_535, help="Model gateway.")] = 8002,
    nats_port: Annotated[int, typer.Option(min=0, max=65_535, help="NATS.")] = 4222,
    nats_url: Annotated[str | None, typer.Option(help="Use this NATS server instead of an embedded one.")] = None,
    nats_creds: Annotated[Path | None, typer.Option(help="Credentials in its account HUB.")] = None,
    nats_system_creds: Annotated[Path | None, typer.Option(help="Credentials in its system account.")] = None,
    keys: Annotated[Path | None, typer.Option(help="Operator's and accounts' keys of that server.")] = None,
    database_url: Annotated[str | None, typer.Option(help="Use this PostgreSQL instead of an embedded one.")] = None,
    as_json: AsJson = False,
) -> None:
    """Start NATS, PostgreSQL and every service; stay until Ctrl-C or SIGTERM. Started again, it goes on where it was."""
    # Nothing is started yet: a Ctrl-C ends it at once. As an exception it can get lost amid the imports.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    from cli.stack.foreground import stay  # noqa: PLC0415  # the services, which other commands never need
    from cli.stack.stack import StackOptions  # noqa: PLC0415

    options = StackOptions(
        data=data.absolute(),
        host=host,
        http_port=port,
        store_port=store_port,
        gateway_port=gateway_port,
        nats_port=nats_port,
        nats_url=nats_url,
        nats_creds=nats_creds,
        nats_system_creds=nats_system_creds,
        keys=keys,
        database_url=database_url,
    )
    own = Path(os.environ["AUTOVIBE_CONTEXT"]) if "AUTOVIBE_CONTEXT" in os.environ else default_file()

    def ready(context: Context) -> None:
        save(context, options.data / "client.json")
        save(context, own)
        if as_json:
            console.emit(
                {
                    "ready": True,
                    "url": context.url,
                    "store_url": context.store_url,
                    "nats_url": context.nats_url,
                    "creds": context.creds,
                    "data": context.data,
                    "models": context.models,
                    "context": str(options.data / "client.json"),
                }
            )
            return
        for line in _welcome(context):
            console.say(line)

    stay(options, ready)


def _welcome(context: Context) -> list[str]:
    return [
        f"HTTP    {context.url}   (docs: {context.url}/openapi.json)",
        f"NATS    {context.nats_url}",
        f"SQL     {context.database_url}",
        f"data    {context.data}",
        f"models  {context.models}",
        "",
        "From another terminal:",
        "  autovibe project create webshop --from DIR --budget 5CAD",
        '  autovibe run webshop "make test"',
        "With the NATS command line, or any client:",
        f"  nats --server {context.nats_url} --creds {context.creds} sub 'av.>'",
        "",
        console.paint("ready; Ctrl-C stops it", console.BOLD),
    ]
