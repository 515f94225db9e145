"""What the shop sells."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Product:
    sku: str
    name: str
    price_cents: int


PRODUCTS = {
    product.sku: product
    for product in (
        Product("tea-100", "Green tea, 100 g", 690),
        Product("cup-2", "Two cups", 1_850),
        Product("pot-1", "Tea pot", 4_200),
    )
}
