"""The panels of the Pareto figure that need a front's own columns: speed, the gap to the information bound, knees."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes

from analysis import pareto


def frame_of(*, latency: bool = True, measured: bool = False) -> pd.DataFrame:
    """Rows as experiments.pareto writes them: a memory front, a latency front and a uniform plan of each."""
    bits = np.linspace(2.0, 5.0, 20)
    loss = 2.0 * 4.0**-bits
    memory = pd.DataFrame(
        {
            "budget": "memory_bytes",
            "budget_bits_per_weight": bits,
            "bits_per_weight": bits,
            "plan": [f"mixed-{value:.3f}-bits" for value in bits],
            "solver": "front",
            "memory_bytes": 1e6 * bits,
            "predicted_loss": loss,
            "lower_bound": 0.99 * loss,
            "information_bound": loss / 10**0.1,
            "knee": np.arange(20) == 7,
        }
    )
    rows = [memory, memory.iloc[:1].assign(plan="tcq-2", solver="uniform", lower_bound=np.nan, knee=np.nan)]
    if latency:
        speed = memory.assign(budget="latency_us", tokens_per_second=1000.0 / bits, information_bound=loss / 10**0.3)
        rows += [speed, speed.iloc[:1].assign(plan="tcq-2", solver="uniform", lower_bound=np.nan, knee=np.nan)]
    frame = pd.concat(rows, ignore_index=True).assign(measured_kl=np.nan, measured_kl_se=np.nan)
    if measured:
        frame.loc[3, ["measured_kl", "measured_kl_se"]] = (0.02, 0.001)
    return frame


def titles(figure: pareto.Figure) -> list[str]:
    return [axes.get_title(loc="left") for axes in figure.axes]


def line(axes: Axes, label: str) -> np.ndarray:
    """(2, points) of the line with a label."""
    return next(np.array(item.get_data()) for item in axes.lines if item.get_label() == label)


def test_a_front_of_both_budgets_has_three_panels() -> None:
    frame = frame_of()
    figure = pareto.figure(frame)
    assert titles(figure) == [
        "Predicted loss, all budgets",
        "Predicted loss against speed",
        "Gap to the information bound",
    ]
    memory, speed = (
        frame[(frame.budget == name) & (frame.solver == "front")] for name in ("memory_bytes", "latency_us")
    )
    np.testing.assert_allclose(line(figure.axes[0], "mixed"), [memory.bits_per_weight, memory.predicted_loss])
    rising = speed.sort_values("tokens_per_second")
    np.testing.assert_allclose(line(figure.axes[1], "mixed"), [rising.tokens_per_second, rising.predicted_loss])
    np.testing.assert_allclose(line(figure.axes[2], "mixed, memory budget")[1], 1.0)
    np.testing.assert_allclose(line(figure.axes[2], "mixed, latency budget")[1], 3.0)
    for axes, rows, x in zip(
        figure.axes, (memory, speed), ("budget_bits_per_weight", "tokens_per_second"), strict=False
    ):
        knee = rows[rows.knee.astype(bool)]
        np.testing.assert_allclose(line(axes, "knee"), [knee[x], knee.predicted_loss])
    assert "uniform tcq" in {str(item.get_label()) for item in figure.axes[0].lines}


@pytest.mark.parametrize(
    ("latency", "measured", "panels"), [(False, False, 2), (False, True, 3), (True, True, 4), (True, False, 3)]
)
def test_panels_follow_the_columns(latency: bool, measured: bool, panels: int) -> None:
    figure = pareto.figure(frame_of(latency=latency, measured=measured))
    assert len(figure.axes) == panels
    assert ("Measured KL to the original" in titles(figure)) == measured
    assert ("Predicted loss against speed" in titles(figure)) == latency


def test_a_latency_front_alone() -> None:
    frame = frame_of()
    figure = pareto.figure(frame[frame.budget == "latency_us"])
    assert titles(figure) == ["Predicted loss against speed", "Gap to the information bound"]


def test_a_lossless_plan_has_no_place_on_a_log_axis() -> None:
    frame = frame_of(latency=False)
    frame.loc[19, "predicted_loss"] = 0.0
    figure = pareto.figure(frame)
    assert line(figure.axes[0], "mixed").shape == (2, 19)
    assert line(figure.axes[1], "mixed").shape == (2, 19)
