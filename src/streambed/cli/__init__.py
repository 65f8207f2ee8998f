"""The `streambed` command."""

import signal
import sys

from streambed.cli.interrupt import stop_at_once

# The script that pip makes, and `python -m streambed`, import all that a command line needs before they call main().
if any(each.endswith(("/streambed", "/streambed/__main__.py")) for each in sys.argv[:1]):
    signal.signal(signal.SIGINT, stop_at_once)
