"""Run the hub's own record alone."""

import sys

from services.hub.app import HubSettings, create_app
from services.kit.main import serve

if __name__ == "__main__":
    sys.exit(serve(create_app, HubSettings, "hub"))
