"""Two processes under torchrun: the same rounds on both, whatever each of them lacks.

This file is also the program that torchrun starts.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
GROUPS_A_PROCESS = 3
STEPS = 2


@pytest.mark.slow
def test_two_processes_fill_their_batches_together(phantom_folder: Path, model_folder: Path, tmp_path: Path):
    out = tmp_path / "out"
    out.mkdir()
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"),
        *(__file__, str(phantom_folder), str(model_folder), str(out), str(tmp_path)),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}

    ended = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=300)

    assert ended.returncode == 0, ended.stderr[-4000:]
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    # rank 0's groups always teach; of rank 1's every third does, so it lacks 2, then 2, then 1, and so on
    assert first["asked"] == second["asked"]
    assert first["asked"][0] == GROUPS_A_PROCESS
    assert len(first["asked"]) > STEPS
    assert first["lacked"] != second["lacked"]
    assert first["batches"] == second["batches"] == [GROUPS_A_PROCESS * 2] * STEPS
    assert first["tokens"] == second["tokens"], "the loss is divided by the tokens of both"
    assert sum(first["tokens"]) == sum(first["own_tokens"]) + sum(second["own_tokens"])
    assert first["weights"] == second["weights"], "both made the same steps"
    drawn = sum(first["asked"])
    assert first["drawn"] == second["drawn"] == 2 * drawn
    asked_once = first["prompts"] + second["prompts"]
    assert len(asked_once) == 2 * drawn
    assert len({tuple(prompt) for prompt in asked_once}) == len(asked_once), "no prompt twice in a pass"

    log = [json.loads(line) for line in (out / "training.jsonl").read_text().splitlines()]
    assert [line["zero_variance_share"] for line in log] == [0.0] * STEPS
    assert sum(line["groups_generated"] for line in log) == 2 * drawn
    assert sum(line["rounds"] for line in log) == len(first["asked"])
    # every group that teaches has one right answer of two
    assert [line["reward"] for line in log] == [0.5] * STEPS
    assert (out / "pathloom_card.json").is_file()
    assert not (out / "checkpoints").exists()


def main(phantoms: str, model: str, out: str, notes: str) -> None:
    from pathloom.train import reinforce
    from pathloom.train.config import ReinforceConfig
    from pathloom.train.reinforce import ReinforceTrainer, run_reinforce
    from pathloom.train.rewards import Reward

    rank = int(os.environ["RANK"])
    noted: dict[str, Any] = {
        name: [] for name in ("asked", "lacked", "batches", "tokens", "own_tokens", "prompts", "weights")
    }
    graded = 0

    def grade(*arguments: Any, **options: Any) -> Reward:
        nonlocal graded
        group, place = divmod(graded, 2)
        graded += 1
        right = float(place == 0 and (rank == 0 or group % 3 == 2))
        return Reward(right, right, {"correct": right}, reasoned=False)

    class Noting(ReinforceTrainer):
        def _most(self, value: int) -> int:
            noted["lacked"].append(value)
            return super()._most(value)

        def _roll_out(self, count: int) -> Any:
            noted["asked"].append(count)
            stream = reinforce.PromptStream(self.prompts.num_rows, self.stage.seed, rank, 2)
            stream.drawn = self.prompts.drawn
            noted["prompts"] += stream.draw(count)
            return super()._roll_out(count)

        def _generate_and_score_completions(self, inputs: Any) -> dict[str, Any]:
            batch = super()._generate_and_score_completions(inputs)
            noted["batches"].append(len(batch["advantages"]))
            noted["tokens"].append(int(batch["num_items_in_batch"]))
            noted["own_tokens"].append(int(batch["completion_mask"].sum()))
            return batch

        def train(self, *arguments: Any, **options: Any) -> Any:
            result = super().train(*arguments, **options)
            noted["weights"] = [float(value.double().sum()) for value in self.model.parameters()]
            noted["drawn"] = self.prompts.drawn
            return result

    reinforce.grade = grade  # type: ignore[attr-defined]
    reinforce.ReinforceTrainer = Noting  # type: ignore[misc]
    config = ReinforceConfig.model_validate(
        {
            "name": "rl",
            "kind": "reinforce",
            "samples": ("phantoms",),
            "model": {"stage": "untrained"},
            "tasks": {"choice": 1, "boxes": 1, "count": 1, "yes_no": 1},
            "group_size": 2,
            "max_new_tokens": 8,
            "trainer": {
                "max_steps": STEPS,
                "logging_steps": 1,
                "save_steps": 1,
                "per_device_train_batch_size": GROUPS_A_PROCESS * 2,
            },
        }
    )
    run_reinforce(config, {"phantoms": Path(phantoms), "untrained": Path(model)}, Path(out))
    (Path(notes) / f"{rank}.json").write_text(json.dumps(noted))


if __name__ == "__main__":
    main(*sys.argv[1:])
