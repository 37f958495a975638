"""One small file for each stage of the DAG: `python -m stages.<name>`. Ctrl-C ends it in a line."""

import os
import sys
from types import TracebackType

INTERRUPTED = 130  # what a shell says of a command that Ctrl-C ended


def _say_in_one_line(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    if issubclass(kind, KeyboardInterrupt):
        print("stopped; the same command goes on from here", file=sys.stderr, flush=True)
        os._exit(INTERRUPTED)  # what is held is let go; taking PyTorch down takes seconds
    else:
        sys.__excepthook__(kind, error, trace)


# here, because the imports of a stage take seconds and Ctrl-C may come then
sys.excepthook = _say_in_one_line
