"""Run the budget alone."""

import sys

from services.budget.app import BudgetSettings, create_app
from services.kit.main import serve

if __name__ == "__main__":
    sys.exit(serve(create_app, BudgetSettings, "budget"))
