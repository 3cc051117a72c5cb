"""What holds for every test: a process that a test starts can be interrupted."""

import signal

# A shell that starts pytest in the background has it ignore SIGINT, and children would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
