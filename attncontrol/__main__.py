"""`python -m attncontrol` is the command `attncontrol`."""

from attncontrol.cli import main

if __name__ == "__main__":
    main()
