"""Run the intake alone: `python -m services.intake`."""

import sys

from services.intake.app import IntakeSettings, create_app
from services.kit.main import serve

if __name__ == "__main__":
    sys.exit(serve(create_app, IntakeSettings, "intake"))
