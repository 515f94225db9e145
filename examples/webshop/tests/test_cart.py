import unittest

from shop.cart import Cart, UnknownProduct


class CartTest(unittest.TestCase):
    def test_an_empty_cart_costs_nothing(self):
        self.assertEqual(Cart().total_cents(), 0)

    def test_the_total_counts_every_piece(self):
        cart = Cart()
        cart.add("tea-100", 2)
        cart.add("cup-2")
        self.assertEqual(cart.total_cents(), 2 * 690 + 1_850)

    def test_what_is_not_sold_cannot_be_added(self):
        with self.assertRaises(UnknownProduct):
            Cart().add("coffee")


if __name__ == "__main__":
    unittest.main()
