# Give the webshop discounts: write them, wire them into the cart, test them.
set -euo pipefail

echo "1/3 writing shop/discounts.py"
cat > shop/discounts.py <<'PY'
"""Discounts: pure functions from a sum in cents to what is taken off it."""


def percent(of_cents, percent_off):
    """Round down: a discount never gives away more than it says."""
    if not 0 <= percent_off <= 100:
        raise ValueError(f"{percent_off} % is not between 0 and 100")
    return of_cents * percent_off // 100
PY
sleep 2

echo "2/3 wiring it into the cart"
cat >> shop/cart.py <<'PY'

    def discounted_cents(self, percent_off):
        from shop.discounts import percent

        total = self.total_cents()
        return total - percent(total, percent_off)
PY
sleep 2

echo "3/3 testing"
cat > tests/test_discounts.py <<'PY'
import unittest

from shop.cart import Cart
from shop.discounts import percent


class DiscountTest(unittest.TestCase):
    def test_ten_percent_of_an_odd_sum_is_rounded_down(self):
        self.assertEqual(percent(999, 10), 99)

    def test_more_than_everything_cannot_be_taken_off(self):
        with self.assertRaises(ValueError):
            percent(100, 101)

    def test_the_cart_takes_it_off(self):
        cart = Cart()
        cart.add("pot-1")
        self.assertEqual(cart.discounted_cents(10), 3_780)
PY
make test
