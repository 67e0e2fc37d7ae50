"""A step of a dense optimizer on an XLA device; prints what its compiled program updates in place.

    python dense_step.py FOLDER NAME SETTINGS

XLA dumps the program into FOLDER. Prints JSON: `held`, the shape of each parameter and tensor of the state;
`aliased`, the shape of each argument that the program writes its result over.
"""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path


def aliased(text: str) -> list[str]:
    """The types of a program's arguments that share memory with a result, sorted."""
    alias = re.search(r"input_output_alias=\{(.*?)\}, entry", text.split("\n", 1)[0])
    numbers = {int(n) for n in re.findall(r"\((\d+), \{\}", alias[1] if alias else "")}
    entry = text[text.index("\nENTRY ") :]
    found = re.findall(r"= (\w+\[[\d,]*\])\S* parameter\((\d+)\)", entry)
    return sorted(kind for kind, number in found if int(number) in numbers)


def main() -> None:
    """Run from the command line."""
    folder, name, settings = Path(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])
    more = f"--xla_dump_to={folder} --xla_dump_hlo_as_text"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {more}"
    import torch
    from models.dense_cases import gradients, makers, parameters, take_steps

    import torch_tpu_embedding as tte

    held = parameters(tte.runtime.device())
    tte.runtime.sync()
    optimizer = makers(name, settings)[1](held)
    take_steps(optimizer, held, gradients(), 4)
    tensors = {id(each): each for each in held}
    for state in optimizer.state.values():
        tensors.update(
            {id(each): each for each in state.values() if isinstance(each, torch.Tensor)}
        )
    kinds = sorted("f32[{}]".format(",".join(map(str, each.shape))) for each in tensors.values())
    programs = [*folder.glob("*after_optimizations.txt")]
    program = max(programs, key=lambda path: int(path.name.split(".")[0].split("_")[1]))
    print(json.dumps({"held": kinds, "aliased": aliased(program.read_text())}))


if __name__ == "__main__":
    main()
