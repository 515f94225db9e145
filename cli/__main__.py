"""`python -m cli` is `autovibe`."""

from cli.main import main

main()
