"""The oldest versions that pyproject.toml allows, as pip gets them for `make test-oldest`."""

from __future__ import annotations

import pytest

from tests.oldest import oldest, requirements


@pytest.mark.parametrize(
    ("requirement", "want"),
    [
        ("torch>=2.9", "torch==2.9"),
        ("plotext>=5.3,<6", "plotext==5.3"),
        ("plotext <6, >=5.3", "plotext==5.3"),
        ("x[extra,other]>=1.0; python_version < '3.12'", "x[extra,other]==1.0; python_version < '3.12'"),
        ("y~=2.1", "y==2.1"),
        ("z==1.2", "z==1.2"),
        ("types-PyYAML", "types-PyYAML"),
    ],
)
def test_lower_bounds_become_pins(requirement: str, want: str) -> None:
    assert oldest(requirement) == want


def test_a_dependency_without_a_lower_bound_is_refused() -> None:
    """Else an upper bound or a wish such as `!=1.3` would let the newest be tested as the oldest."""
    for requirement in ("x<2", "x!=1.3", "x>1.3"):
        with pytest.raises(ValueError, match="lower bound"):
            oldest(requirement)


def test_of_every_dependency() -> None:
    names = {item.partition("==")[0] for item in requirements()}
    assert {"torch", "transformers", "numpy", "hypothesis"} < names
