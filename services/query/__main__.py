"""Runs the query service alone."""

import sys

from services.kit.main import serve
from services.query.app import create_app
from services.query.settings import QuerySettings

if __name__ == "__main__":
    sys.exit(serve(create_app, QuerySettings, "query"))
