"""Every primary config composes with every preset of its groups, and what it names can be made."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from alloc.sensitivity import METHODS
from experiments.entry import CONF
from experiments.plan_stage import label
from experiments.workspace import model_label
from quantizers import palette
from quantizers.rotation import MOST_BLOCK

PRIMARY = sorted(path.stem for path in CONF.glob("*.yaml"))


def presets(group: str) -> list[str]:
    return sorted(path.stem for path in (Path(CONF) / group).glob("*.yaml"))


@pytest.mark.parametrize("name", PRIMARY)
def test_primary_configs_compose(name: str) -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        assert compose(name)


@pytest.mark.parametrize("name", PRIMARY)
def test_new_runs_limit_the_blocks_of_rotations(name: str) -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose(name)
    if "rotation" in cfg:
        assert cfg.rotation == {"seed": 0, "most_block": MOST_BLOCK}


@pytest.mark.parametrize("study", presets("study"))
def test_every_study_composes(study: str) -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("ablate", overrides=[f"study={study}"])
    assert cfg.study


@pytest.mark.parametrize("members", presets("palette"))
def test_the_pipeline_takes_every_palette(members: str) -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("pipeline", overrides=[f"palette={members}"])
    assert palette([*cfg.palette.members, *cfg.baselines], state_bits=cfg.state_bits)


@pytest.mark.parametrize("method", presets("sensitivity"))
def test_the_pipeline_takes_every_sensitivity(method: str) -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("pipeline", overrides=[f"sensitivity={method}"])
    assert isinstance(instantiate(cfg.sensitivity), METHODS)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("budget.bits_per_weight=3.25", "3.25-bits"),
        ("budget.uniform=tcq-2.5", "as-tcq-2.5"),
        ("budget.memory_bytes=1000", "1000-bytes"),
    ],
)
def test_the_budget_and_the_model_name_the_run(override: str, expected: str) -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("pipeline", overrides=[override, "model.path='some/folder/model.gguf#sha256=00'"])
    assert label(cfg) == expected
    assert model_label(cfg) == "model"
