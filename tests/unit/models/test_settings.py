"""Plain values become dataclasses: adaptations by method, nested records, all problems at once."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

import pytest

from stgcma.config import ModelConfig, OptimConfig
from stgcma.errors import ConfigError
from stgcma.models.adaptations import ADAPTATIONS, STGCMA, NoAdaptation
from stgcma.models.settings import from_mapping

MODEL = {"backbone": "swin_base", "pretrained": "none"}


@dataclass(frozen=True, kw_only=True)
class Trials:
    optims: tuple[OptimConfig, ...]
    model: ModelConfig | None = None


@pytest.mark.parametrize("method", ADAPTATIONS)
def test_values_round_trip_through_asdict_and_json(method):
    model = ModelConfig(**MODEL, adaptation=ADAPTATIONS[method](branches="audio"))
    trials = Trials(
        optims=(OptimConfig(epochs=2, batch_size=1, learning_rate=1e-3, average_epochs=(1, 2)),), model=model
    )
    assert from_mapping(Trials, json.loads(json.dumps(asdict(trials))), "trials") == trials
    assert from_mapping(Trials, {"optims": [], "model": None}, "trials") == Trials(optims=())


def test_stg_cma_is_the_default_method():
    assert from_mapping(ModelConfig, MODEL, "m").adaptation == STGCMA()
    assert from_mapping(ModelConfig, {**MODEL, "adaptation": {"size": "tiny"}}, "m").adaptation == STGCMA(size="tiny")
    plain = {"method": "none", "branches": "visual"}
    assert from_mapping(ModelConfig, {**MODEL, "adaptation": plain}, "m").adaptation == NoAdaptation(branches="visual")


@pytest.mark.parametrize(
    ("adaptation", "lines"),
    [
        ({"method": "ful"}, ["adaptation.method: no such method 'ful'; did you mean 'full'?"]),
        ({"method": None}, ["adaptation.method: no such method None; did you mean 'none'?"]),
        ({"method": 3}, ["adaptation.method: no such method 3; choose one of: stg_cma, full, none."]),
        ({"method": "none", "brnches": "audio"}, ["adaptation.brnches: no such field; did you mean 'branches'?"]),
        (
            {"method": "full", "size": "base", "fusion": "none", "temporal": 1},
            [
                "adaptation: method full does not have size, fusion (stg_cma does). Remove these fields, or "
                "replace the whole section: --set 'adaptation={method: full}', in an ablation set: {adaptation: "
                "{method: full}}.",
                "adaptation.temporal: no such field; fields here: method, branches.",
            ],
        ),
    ],
)
def test_unknown_methods_and_fields_are_reported(adaptation, lines):
    with pytest.raises(ConfigError) as caught:
        from_mapping(ModelConfig, {**MODEL, "adaptation": adaptation}, "m")
    assert caught.value.problems == tuple(lines)


def test_problems_of_nested_records_have_their_paths():
    optims = [{"epochs": 1, "batch_size": 0, "learning_rate": 1.0, "warmup_epochs": 0}, {"epoch": 1}]
    with pytest.raises(ConfigError) as caught:
        from_mapping(Trials, {"optims": optims}, "trials")
    assert str(caught.value).startswith("trials has 5 problems\n")
    assert caught.value.problems == (
        "optims.0: optim.batch_size needs at least 1, got 0.",
        "optims.1.epoch: no such field; did you mean 'epochs'?",
        "optims.1.epochs: needed, but not given.",
        "optims.1.batch_size: needed, but not given.",
        "optims.1.learning_rate: needed, but not given.",
    )
