# Show prices with tax, on top of what is there.
set -euo pipefail

test -f shop/discounts.py || { echo "the discounts are missing: not started from the right checkpoint" >&2; exit 1; }
echo "1/2 writing shop/tax.py"
cat > shop/tax.py <<'PY'
"""Sales tax, in thousandths: 149.75 is what Quebec takes of 1000."""

from decimal import ROUND_HALF_EVEN, Decimal

QUEBEC = Decimal("149.75")


def with_tax(net_cents, per_mille=QUEBEC):
    return int((net_cents * (1000 + per_mille) / 1000).quantize(Decimal(1), ROUND_HALF_EVEN))
PY
echo "2/2 testing"
cat > tests/test_tax.py <<'PY'
import unittest

from shop.tax import with_tax


class TaxTest(unittest.TestCase):
    def test_a_hundred_dollars_become_114_98(self):
        self.assertEqual(with_tax(10_000), 11_498)
PY
sed -i 's/^The cart of a small shop.*/The cart of a small shop: products, quantities, discounts and taxes, in cents./' README.md
make test
