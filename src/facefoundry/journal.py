"""What happened, for machines: one JSON object a line, where FACEFOUNDRY_LOG says.

FACEFOUNDRY_LOG is a file, which all processes append to, or `-` for standard error. Unset: nothing
is written.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from datetime import UTC, datetime
from pathlib import Path

VARIABLE = "FACEFOUNDRY_LOG"


def record(event: str, **fields: object) -> None:
    """Append {"time" (UTC), "event", "pid", **fields}; a log that cannot be written is let go."""
    target = os.environ.get(VARIABLE)
    if not target:
        return
    time = datetime.now(UTC).isoformat(timespec="milliseconds")
    entry = {"time": time, "event": event, "pid": os.getpid()} | fields
    line = json.dumps(entry, default=str) + "\n"
    with contextlib.suppress(OSError):
        if target == "-":
            sys.stderr.write(line)
            return
        Path(target).parent.mkdir(parents=True, exist_ok=True)
        with Path(target).open("a", encoding="utf-8") as file:
            file.write(line)  # one short append: lines of several processes do not mix
