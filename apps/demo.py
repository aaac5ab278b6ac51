"""The demo page: `python apps/demo.py`, the same as `attncontrol demo`."""

import sys

from attncontrol.cli import app

if __name__ == "__main__":
    app(["demo", *sys.argv[1:]])
