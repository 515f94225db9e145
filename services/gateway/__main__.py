"""Run the gateway alone: `python -m services.gateway`."""

import sys

from services.gateway.app import GatewaySettings, create_app
from services.kit.main import serve

if __name__ == "__main__":
    sys.exit(serve(create_app, GatewaySettings, "gateway"))
