"""`python -m streambed` is the `streambed` command."""

from streambed.cli.main import main

main()
