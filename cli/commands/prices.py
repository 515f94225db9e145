"""`autovibe price show`."""

from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer

from cli import console
from cli.framing import AsJson, framed, group
from cli.hub import Json, connect

app = group("price", "Prices of models, as calls are held and settled with them.")

CLASSES = ("input", "output", "cache_read", "cache_write_5m", "cache_write_1h")
OLD = timedelta(days=30)


@app.command()
@framed
def show(
    model: Annotated[str, typer.Argument(help="As it stands in a request.", show_default=False)],
    provider: Annotated[str | None, typer.Option(help="Who offers it; whoever does without it.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show what a model costs, per million tokens, and where the price comes from."""
    priced = connect().get("/api/v1/prices", model=model, provider=provider)
    if as_json:
        console.emit(priced)
        return
    rates = priced["rates"]
    console.say(f"{priced['model']} at {priced['provider'] or 'any provider'}")
    if rates["is_free"]:
        console.say("free: its calls cost nothing")
    else:
        _rates(rates)
    as_of = datetime.fromisoformat(priced["as_of"])
    console.say(f"from {priced['source']}, as of {as_of:%Y-%m-%d}, table {rates['price_id'][:12]}")
    if datetime.now(UTC) - as_of > OLD:
        console.note("· these prices are more than 30 days old")


def _rates(rates: Json) -> None:
    tiers = [("", rates["price"])]
    tiers += [(f"above {tier['above_input_tokens']}", tier["price"]) for tier in rates["tiers"]]
    console.table(
        ("INPUT TOKENS", *(name.upper().replace("_", " ") for name in CLASSES), "CURRENCY"),
        ((above or "any", *(price[name] for name in CLASSES), rates["currency"]) for above, price in tiers),
    )
    for name, cost in sorted(rates["server_tools"].items()):
        console.say(f"{name}: {cost} {rates['currency']} per use")
    if rates["currency"] != "CAD":
        console.say(f"1 {rates['currency']} = {rates['cad']} CAD")
