"""The supervisor of one incarnation: it restores the workspace, runs the runner, streams, captures, reports, stops."""

VERSION = "1"
