"""The similarity threshold of a false-match rate, from the model's own table."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from facefoundry.errors import FoundryError

Table = Sequence[Mapping[str, Any]]  # rows of `verification.threshold_table`

DEFAULT_FMR = 1e-4
ONE_IN = re.compile(r"1\s*(?:in|/|:)\s*([\d,_ ]+)")


def supported(table: Table) -> dict[float, float]:
    """{FMR: threshold} of the rates that the calibration pairs could support, strictest first."""
    rows = {float(row["fmr"]): row["threshold"] for row in table}
    return {fmr: float(rows[fmr]) for fmr in sorted(rows) if rows[fmr] is not None}


def default_fmr(table: Table) -> float:
    """1 in 10,000 where the table has it, else the nearest rate it has (the laxer of two).

    Raises FoundryError for a model that was never calibrated."""
    rates = supported(table)
    if not rates:
        raise FoundryError("the model has no thresholds; calibrate it with the evaluate stage")
    return min(rates, key=lambda fmr: (abs(math.log(fmr / DEFAULT_FMR)), -fmr))


def threshold_at_fmr(table: Table, fmr: float) -> float:
    """The threshold of exactly this rate. Raises FoundryError with the rates that there are."""
    rates = supported(table)
    for rate, threshold in rates.items():
        if math.isclose(rate, fmr, rel_tol=1e-6):
            return threshold
    known = ", ".join(one_in(rate) for rate in rates) or "none"
    raise FoundryError(
        f"the model has no threshold for a false-match rate of {one_in(fmr)}; choose from: {known}"
    )


def parse_fmr(text: str) -> float:
    """`1 in 10,000`, `1/10000`, `1e-4` or `0.0001`, a rate in (0, 1). Raises FoundryError."""
    match = ONE_IN.fullmatch(text.strip())
    try:
        fmr = 1 / int(re.sub(r"\D", "", match[1])) if match else float(text)
    except (ValueError, ZeroDivisionError):
        fmr = math.nan
    if not 0 < fmr < 1:
        raise FoundryError(f"{text!r}: not a false-match rate; write 1e-4 or '1 in 10,000'")
    return fmr


def one_in(fmr: float) -> str:
    """0.0001 -> `1 in 10,000`."""
    return f"1 in {1 / fmr:,.0f}" if fmr > 0 else "none"
