"""A gate of a user's own: one file, which is this one, and one line of YAML."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from torch import Tensor, nn

from mosaic.cli.main import main
from mosaic.errors import MosaicError
from mosaic.nets.teacher import MixtureOfExperts
from mosaic.server.experts import Experts
from mosaic.teachers import Evidence, GatedTeacher
from tests.small_runs import UNSEEN, final_model, rows_without_time, tiny_fit


class Surest(nn.Module):
    """Lets the expert speak that is the surest of its class."""

    def forward(self, expert_logits: Tensor) -> Tensor:
        surest = expert_logits.softmax(-1).amax(-1).argmax(1)
        return expert_logits[torch.arange(len(surest)), surest]


class SurestExpert(GatedTeacher):
    """Listens to one expert for each image."""

    seen: list[Experts] = []  # noqa: RUF012  # what the test looks at

    def gate(self, experts: Experts, evidence: Evidence) -> Surest:
        self.seen.append(experts)
        return Surest()


class Broken(nn.Module):
    """Answers with nothing that can be learnt."""

    def forward(self, expert_logits: Tensor) -> Tensor:
        return expert_logits.mean(1) * torch.nan


class BrokenGate(GatedTeacher):
    """Mixes the experts into NaN."""

    def gate(self, experts: Experts, evidence: Evidence) -> Broken:
        return Broken()


class Wordy(nn.Module):
    """Answers for every expert instead of all of them."""

    def forward(self, expert_logits: Tensor) -> Tensor:
        return expert_logits


def test_a_gate_that_joins_nothing_is_refused() -> None:
    mixture = MixtureOfExperts(nn.Identity(), Wordy())
    with pytest.raises(MosaicError, match=r"of shape \(B, C\), here \(5, 2\), of Wordy, got \(5, 3, 2\)"):
        mixture.join(torch.zeros(5, 3, 2), torch.zeros(5, 1, 8, 8))


def test_a_student_of_a_broken_gate_is_refused_and_the_run_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gate = "--algorithm.teacher=tests.teachers.test_own_gate.BrokenGate"
    main(tiny_fit(tmp_path / "run", gate, *UNSEEN))
    assert "the weights of the student are not finite, so it is refused" in capsys.readouterr().err
    assert all(tensor.isfinite().all() for tensor in final_model(tmp_path / "run").values())


@pytest.mark.parametrize("heads_only", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_gate_from_outside_is_one_file_and_one_line(heads_only: bool, tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    gate = {"class_path": "tests.teachers.test_own_gate.SurestExpert", "init_args": {"heads_only": heads_only}}
    own.write_text(yaml.safe_dump({"algorithm": {"init_args": {"teacher": gate}}}))
    SurestExpert.seen.clear()
    main(tiny_fit(tmp_path / "run", "--config", str(own), *UNSEEN))
    (experts,) = SurestExpert.seen
    assert experts.authority.shape == (4, 10)
    stages = json.loads((tmp_path / "run" / "summary.json").read_text())["stages"]
    assert {"gated teacher", "plain ensemble", "student", "expert: client 0"} <= stages.keys()
    assert "prototype head" not in stages, "nothing was asked for that it does not need"
    assert rows_without_time(tmp_path / "run")
    assert all(tensor.isfinite().all() for tensor in final_model(tmp_path / "run").values())


def test_the_surest_expert_speaks_alone() -> None:
    opinions = torch.tensor([[[3.0, 0.0], [0.0, 1.0]], [[0.5, 0.0], [0.0, 4.0]]])
    assert Surest()(opinions).tolist() == [[3.0, 0.0], [0.0, 4.0]]
