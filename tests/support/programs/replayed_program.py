"""A replayed step; prints what its compiled program updates in place, as the traced one's does.

    python replayed_program.py FOLDER

XLA dumps the programs into FOLDER. Prints JSON: `traced` and `replayed`, the shapes of the arguments that
each program writes its results over; `held`, of the tables' arrays, parameters and optimizer states.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path


def newest(folder: Path) -> str:
    """The text of the program that was compiled last."""
    programs = [*folder.glob("*after_optimizations.txt")]
    return max(programs, key=lambda path: int(path.name.split(".")[0].split("_")[1])).read_text()


def main() -> None:
    """Run from the command line."""
    folder = Path(sys.argv[1])
    more = f"--xla_dump_to={folder} --xla_dump_hlo_as_text"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {more}"
    import torch
    from models.replays import Case
    from programs.dense_step import aliased

    import torch_tpu_embedding as tte

    case = Case("Adagrad")
    step = tte.replay(case.step, case.embedding, verify=2, check_every=10**6)
    found = {}
    for _ in range(2):
        case.step(case.next())
        tte.runtime.sync(wait=True)
    found["traced"] = aliased(newest(folder))
    for _ in range(8):
        step(case.next())
    assert step.replayed > 0, step.reason
    tte.runtime.sync(wait=True)
    found["replayed"] = aliased(newest(folder))
    held = [each for of_stack in case.embedding._tables.engine.store.arrays for each in of_stack]
    held += case.model.parameters()
    states = case.dense_optimizer.state.values()
    held += {id(v): v for s in states for v in s.values() if isinstance(v, torch.Tensor)}.values()
    on_device = [each for each in held if each.device.type == "xla"]
    found["held"] = sorted("f32[{}]".format(",".join(map(str, e.shape))) for e in on_device)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
