"""How every figure looks: one size, one type scale, one colour and marker per quantizer family, in all figures.

The colours are those of Okabe and Ito (2008, jfly.uni-koeln.de/color), distinct under the common colour deficiencies;
a family has a marker too, so that no reading rests on colour. Figures are `matplotlib.figure.Figure` objects on the Agg
or SVG canvas: pyplot and its global state are never imported. SVG text stays text: small, selectable, searchable."""

from __future__ import annotations

import hashlib
import io
import math
import re
from html import escape
from typing import Any, Literal

import matplotlib
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

INK = "#1d2530"  # text, and the series "mixed plan"
MUTED = "#6b7684"  # axes, bounds, annotations
FAINT = "#dde2e8"  # grid, background series
ACCENT = "#0072b2"

FAMILY_COLORS = {
    "trellis": "#000000",
    "trellis2": "#5d3a9b",
    "tcq": "#0072b2",
    "half-tcq": "#56b4e9",
    "trained-tcq": "#004b76",
    "published-tcq": "#7f8fd0",
    "published-half-tcq": "#a9b4e0",
    "vq": "#009e73",
    "nuq": "#e69f00",
    "rtn": "#d55e00",
    "int": "#d55e00",
    "nf": "#cc79a7",
    "fp4": "#b8a000",
    "nvfp4": "#b8a000",
    "mxfp4": "#b8a000",
    "mxint8": "#882255",
    "e8": "#44aa99",
    "fp16": "#8a94a0",
}
FAMILY_MARKERS = {
    "trellis": "p",
    "trellis2": "d",
    "tcq": "o",
    "half-tcq": "D",
    "trained-tcq": "8",
    "published-tcq": "H",
    "published-half-tcq": "d",
    "vq": "s",
    "nuq": "^",
    "rtn": "X",
    "int": "X",
    "nf": "v",
    "fp4": "<",
    "nvfp4": ">",
    "mxfp4": "h",
    "mxint8": "h",
    "e8": "*",
    "fp16": "P",
}
SPARE_COLORS = ("#cc79a7", "#882255", "#b8a000", "#44aa99")
SPARE_MARKERS = ("v", "<", ">", "h")

WIDTH = 9.8  # inches; 705 pt of SVG, which the report shows at 1.0 to 1.4 times that
# matplotlib types its settings key by key; the values here are checked by matplotlib itself
SETTINGS: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial"],
    "font.size": 9.0,
    "svg.fonttype": "none",
    "pdf.fonttype": 42,
}


def family(quantizer: str) -> str:
    """The name without rate and group: `half-tcq-3.25` -> `half-tcq`, `int-4-g128` -> `int`, `fp16` -> `fp16`."""
    return re.sub(r"-(g?\d+|\d+\.\d+)(?=-|$).*", "", quantizer)


def _spare(name: str, choices: tuple[str, ...]) -> str:
    return choices[hashlib.sha256(name.encode()).digest()[0] % len(choices)]


def family_color(name: str) -> str:
    """Colour of a family; an unknown one gets a spare colour, the same in every figure and run."""
    return FAMILY_COLORS.get(name) or _spare(name, SPARE_COLORS)


def family_marker(name: str) -> str:
    """Marker of a family, unknown ones as in `family_color`."""
    return FAMILY_MARKERS.get(name) or _spare(name, SPARE_MARKERS)


def new_figure(height: float, width: float = WIDTH) -> Figure:
    """An empty figure of `width` x `height` inches with constrained layout."""
    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    engine = figure.get_layout_engine()
    assert isinstance(engine, ConstrainedLayoutEngine)
    engine.set(w_pad=0.06, h_pad=0.06, wspace=0.03, hspace=0.03)
    return figure


def dress(axes: Axes, *, title: str = "", x: str = "", y: str = "", grid: Literal["x", "y", "both"] = "both") -> None:
    """Titles left, no box, quiet grid behind the data. `grid`: `x`, `y` or `both`."""
    axes.set_title(title, loc="left", fontsize=10, fontweight="bold", color=INK, pad=8)
    axes.set_xlabel(x, color=INK)
    axes.set_ylabel(y, color=INK)
    axes.set_axisbelow(True)
    axes.grid(visible=True, axis=grid, color=FAINT, linewidth=0.7)
    axes.tick_params(which="both", colors=MUTED, length=3, labelcolor=INK)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(MUTED)


def log_ticks(axis: Axis, low: float, high: float, *, margin: float = 1.15) -> None:
    """A log axis over [low, high] with plain numbers: powers of ten where those give three ticks, else 1, 2, 5 per
    decade, else even steps. `low` > 0."""
    first, last = low / margin, high * margin
    decades = range(math.floor(math.log10(first)), math.ceil(math.log10(last)) + 1)
    for steps in ((1,), (1, 2, 5)):
        ticks = [step * 10.0**decade for decade in decades for step in steps]
        ticks = [tick for tick in ticks if first <= tick <= last]
        if len(ticks) >= 3:
            break
    else:
        even = MaxNLocator(nbins=5, min_n_ticks=3, steps=[1, 2, 5, 10]).tick_values(first, last)
        ticks = [float(tick) for tick in even if first <= tick <= last]
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{round(value, 12):g}"))


def legend(axes: Axes, **options: Any) -> None:
    """A legend without a box in the small type size."""
    settings: dict[str, Any] = {"frameon": False, "fontsize": 8.5, "labelcolor": INK, "handlelength": 1.8}
    axes.legend(**{**settings, **options})


def svg(figure: Figure, name: str, label: str) -> str:
    """One `<svg>` element for inlining: no prolog, no metadata, no external reference, ids prefixed with `name` (two
    figures of one page must not share a clip path), `label` for screen readers. The same figure gives the same text."""
    stream = io.StringIO()
    empty = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with matplotlib.rc_context({**SETTINGS, "svg.hashsalt": name}):
        figure.savefig(stream, format="svg", metadata=empty)
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", text)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = text.replace("url(#", f"url(#{name}-").replace('href="#', f'href="#{name}-')
    text = re.sub(r'<svg ([^>]*?)height="[^"]*"([^>]*?)width="[^"]*"', r"<svg \1\2", text, count=1)
    return text.replace("<svg ", f'<svg role="img" aria-label="{escape(label)}" ', 1).strip()
