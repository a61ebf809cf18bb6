"""Numbers as a reader sees them: a unit, as many digits as they mean, a dash where there is none.

An estimate with a standard error is rounded to two significant digits of that error (Particle Data Group, Review of
Particle Physics, section 5.3, without its third case): 0.15234 +- 0.00412 becomes 0.1523 +- 0.0041."""

from __future__ import annotations

import math

DASH = "\N{EN DASH}"
MINUS = "\N{MINUS SIGN}"
PLUS_MINUS = "\N{PLUS-MINUS SIGN}"
TIMES = "\N{MULTIPLICATION SIGN}"
THIN = "\N{NO-BREAK SPACE}"
SUPERSCRIPTS = str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻")


def absent(value: float | None) -> bool:
    """True for None and NaN."""
    return value is None or math.isnan(value)


def fixed(value: float | None, digits: int = 2) -> str:
    """Fixed digits, a true minus sign, thousands apart: -1234.5 -> -1,234.50 (with U+2212)."""
    if value is None or math.isnan(value):
        return DASH
    return f"{value:,.{digits}f}".replace("-", MINUS)


def significant(value: float | None, digits: int = 3) -> str:
    """`digits` significant digits; powers of ten below 1e-4 and from 1e6: 1.2e-11 -> 1.20 x 10^-11."""
    if value is None or math.isnan(value):
        return DASH
    if value == 0:
        return "0"
    exponent = math.floor(math.log10(abs(float(f"{value:.{digits - 1}e}"))))
    if -5 < exponent < 6:
        return fixed(value, max(0, digits - 1 - exponent))
    mantissa = fixed(value / 10.0**exponent, digits - 1)
    return f"{mantissa}{THIN}{TIMES}{THIN}10{str(exponent).translate(SUPERSCRIPTS)}"


def with_error(value: float | None, error: float | None) -> str:
    """`value +- error` on the same digits, two significant in the error; without an error, four significant digits."""
    if value is None or math.isnan(value):
        return DASH
    if error is None or math.isnan(error) or error <= 0:
        return significant(value, 4)
    digits = max(0, 1 - math.floor(math.log10(float(f"{error:.1e}"))))
    return f"{fixed(value, digits)} {PLUS_MINUS} {fixed(error, digits)}"


def size(value: float | None) -> str:
    """Bytes in decimal megabytes: 53184000 -> 53.18 MB; below 1 MB in kB, from 10 GB in GB."""
    if value is None or math.isnan(value):
        return DASH
    for unit, scale, least in (("GB", 1e9, 1e10), ("MB", 1e6, 1e6), ("kB", 1e3, 1e3)):
        if value >= least:
            return f"{fixed(value / scale, 2)}{THIN}{unit}"
    return f"{value:.0f}{THIN}B"


def count(value: float | None) -> str:
    """An integer with thousands apart."""
    return DASH if value is None or math.isnan(value) else f"{value:,.0f}".replace("-", MINUS)


def percent(value: float | None, digits: int = 1) -> str:
    """A fraction as a percentage."""
    return DASH if value is None or math.isnan(value) else f"{fixed(100 * value, digits)}{THIN}%"


def duration(seconds: float | None) -> str:
    """Milliseconds below a second, seconds below two minutes, then minutes and seconds: 372.4 -> 6 min 12 s."""
    if seconds is None or math.isnan(seconds):
        return DASH
    if 0 < seconds < 1:
        return f"{significant(1e3 * seconds, 2)}{THIN}ms"
    if seconds < 120:
        return f"{significant(seconds, 3)}{THIN}s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}{THIN}min {rest}{THIN}s"
