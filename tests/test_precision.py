"""Number formats: what `auto` chooses, and that bf16 really computes in bf16."""

import pytest
import torch

from facefoundry import precision
from facefoundry.errors import FoundryError


@pytest.mark.parametrize(("native", "expected"), [(True, "bf16-mixed"), (False, "32-true")])
def test_auto_is_bf16_only_where_it_is_native(monkeypatch, native, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": native})
    assert precision.resolve_precision("auto") == expected
    assert precision.resolve_precision("32-true") == "32-true"


def test_an_unknown_precision_is_refused_with_the_known_ones():
    with pytest.raises(FoundryError, match=r"'float8' is not one of auto, 32-true, bf16-mixed"):
        precision.resolve_precision("float8")
