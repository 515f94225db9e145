"""Run the projector alone."""

import sys

from services.kit.main import serve
from services.projector.app import ProjectorSettings, create_app

if __name__ == "__main__":
    sys.exit(serve(create_app, ProjectorSettings, "projector"))
