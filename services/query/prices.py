"""What a model costs: the budget is asked, which pins it for calls too."""

from starlette.responses import Response

from events.ledger import AskPrice
from services.kit.ledger import CallLedger, LedgerRefused, LedgerUnreachable
from services.query.http import JSON, Asked
from services.query.parameters import Parameter, by_text
from services.query.problems import HttpProblem, unavailable


class Prices:
    """The handler of GET /prices."""

    PARAMETERS: tuple[Parameter, ...] = (by_text("model").needed(), by_text("provider"))

    def __init__(self, ledger: CallLedger) -> None:
        self._ledger = ledger

    async def price(self, asked: Asked) -> Response:
        """The rates that a call of this model would be held and settled with now; 404 where it would be refused."""
        model, provider = asked.text("model") or "", asked.text("provider")
        try:
            ask = AskPrice(model=model, provider=provider)
        except ValueError as error:
            raise HttpProblem(400, "bad_parameter", "the name of a model has 1 to 200 characters") from error
        try:
            priced = await self._ledger.price(ask)
        except LedgerUnreachable as error:
            raise unavailable(f"the budget did not say a price: {error}") from error
        except LedgerRefused as error:
            raise HttpProblem(422, "refused", str(error)) from error
        if priced.rates is None:
            raise HttpProblem(
                404,
                "unknown_model",
                f"nobody knows what {model[:200]!r} costs{f' at {provider[:200]!r}' if provider else ''}, so its calls"
                " are refused",
                value=model[:200],
                remedy="give it a price, or say that it is free: AUTOVIBE_PRICES_PATH, docs/how-to/prices.md",
            )
        return Response(priced.model_dump_json(), media_type=JSON)
