"""`python -m tinygpt` is the command `tinygpt`."""

import signal

if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until `main` knows better: Ctrl-C ends a program that only starts

from tinygpt.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
