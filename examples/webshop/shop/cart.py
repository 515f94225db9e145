"""The cart: how many of what, and what that costs."""

from shop.catalogue import PRODUCTS


class UnknownProduct(KeyError):
    """The shop does not sell this."""


class Cart:
    def __init__(self):
        self._quantities = {}

    def add(self, sku, quantity=1):
        if sku not in PRODUCTS:
            raise UnknownProduct(sku)
        if quantity < 1:
            raise ValueError(f"quantity {quantity} is less than 1")
        self._quantities[sku] = self._quantities.get(sku, 0) + quantity

    def total_cents(self):
        return sum(PRODUCTS[sku].price_cents * quantity for sku, quantity in self._quantities.items())
