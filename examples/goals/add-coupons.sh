# Another idea, from before the discounts were wired into the cart: coupons instead.
set -euo pipefail

cat > shop/coupons.py <<'PY'
"""Coupons: a code that takes off a fixed sum, never more than there is."""

COUPONS = {"WELCOME": 500}


def redeem(total_cents, code):
    return max(0, total_cents - COUPONS[code])
PY
cat > tests/test_coupons.py <<'PY'
import unittest

from shop.coupons import redeem


class CouponTest(unittest.TestCase):
    def test_a_coupon_never_pays_out(self):
        self.assertEqual(redeem(300, "WELCOME"), 0)
PY
make test
