"""Renders self-contained HTML pages from templates, and formats the numbers on them."""

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from coldstart.evaluation.report.plots import COLORS

UNDEFINED = "not defined"
GAP = "\u00a0"
"""A no-break space, before a percent sign."""


def page(template: str, **values: Any) -> str:
    """Renders a page that needs no network and no script."""
    environment = Environment(
        loader=PackageLoader("coldstart.evaluation", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"figure": figure, "signed": signed, "percent": percent, "count": count, "p_value": p_value}
    return environment.get_template(template).render(colors=COLORS, **values)


def figure(value: float | None, digits: int = 4) -> str:
    """A number with a fixed number of decimals."""
    return UNDEFINED if value is None else f"{value:.{digits}f}"


def signed(value: float | None, digits: int = 3) -> str:
    """A difference with its sign."""
    return UNDEFINED if value is None else f"{value:+.{digits}f}".replace("-", "\u2212")


def p_value(value: float | None) -> str:
    """A p-value; very small ones as an upper limit."""
    return UNDEFINED if value is None else "< 0.0001" if value < 1e-4 else f"{value:.4f}"


def percent(value: float | None, digits: int = 0) -> str:
    """A share as a percentage."""
    return UNDEFINED if value is None else f"{value * 100:.{digits}f}{GAP}%".replace("-", "\u2212")


def count(value: Any) -> str:
    """A value of any type; numbers with thousands separators."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
