"""The programs of one training step under torch_tpu, which runs several, by the call that runs them.

    python -m support.tpu.step_programs --out folder --layout TPU   (the options of scripts/trace_step.py)

For an interpreter that has torch_tpu and the plugin of its tests; `scripts/tpu_report.py` starts it. The
step is that of scripts/trace_step.py; its head is one function of `torch.compile`, as a user's would be,
with --joint one that gives the loss and its gradients.
Prints one JSON object: `arrays` and `bytes` as trace_step.py does, and `calls`: for each call of the step
its programs, XLA's dump of each, and how often the step runs it.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from support.hlo_report import dump_flags
from trace_step import HIDDEN, make_case, make_form, parse_args

DUMPED = ".before_optimizations.hlo.pb"
_OF_A_FUNCTION = re.compile(r"_L\d+C\d+_")
"""In the names of programs of `torch.compile`: a place in a source file."""


def main() -> None:
    """Run from the command line."""
    own = argparse.ArgumentParser(add_help=False)
    own.add_argument("--joint", action="store_true")
    joint, sys.argv[1:] = own.parse_known_args()
    args = parse_args()
    shutil.rmtree(args.out, ignore_errors=True)
    args.out.mkdir(parents=True)
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {dump_flags(args.out)}".strip()
    os.environ["TPU_EMBEDDING_COMPILE"] = "1"
    os.environ["TORCHINDUCTOR_AUTOGRAD_CACHE"] = "0"  # what is read from it is not dumped
    print(json.dumps(run(args, joint.joint)))


def run(args: argparse.Namespace, joint: bool) -> dict[str, Any]:
    """Take two steps: the first compiles, the second counts. For `joint` see `Step`."""
    import torch
    from support.step_bytes import bytes_moved

    torch.manual_seed(0)
    features, size, inputs = make_case(args)
    form = make_form(args, features, size, inputs)
    widths = [each.table.dim * max(each.max_sequence_length, 1) for each in features]
    calls = Calls(args.out)
    step = Step(form, sum(widths), training=not args.evaluate, joint=joint)
    first = [calls.during(name, call) for name, call in step.calls()]
    second = [calls.during(name, call) for name, call in step.calls()]
    return {
        "arrays": form.arrays,
        "bytes": bytes_moved(form.embedding, inputs, training=not args.evaluate),  # type: ignore[attr-defined]
        "calls": [together(one, other) for one, other in zip(first, second, strict=True)],
    }


class Step:
    """One step in several calls, of which each is over before the next begins.

    Args:
        width: of the activations of a sample, joined.
        joint: True if one call gives the loss and the gradients of the activations.
    """

    def __init__(self, form: Any, width: int, training: bool, joint: bool) -> None:
        import torch

        import torch_tpu_embedding as tte

        self._form, self._training, self._joint = form, training, joint
        device = tte.runtime.device()
        hidden, last = torch.randn(width, HIDDEN).to(device), torch.randn(HIDDEN, 1).to(device)

        def head(*activations: torch.Tensor) -> torch.Tensor:
            joined = torch.cat([each.flatten(1) for each in activations], dim=1)
            return ((torch.relu(joined @ hidden) @ last) ** 2).mean()

        def with_gradients(*activations: torch.Tensor) -> tuple[torch.Tensor, ...]:
            every = tuple(range(len(activations)))
            gradients, loss = torch.func.grad_and_value(head, argnums=every)(*activations)
            return loss, *gradients

        used = with_gradients if joint else head
        self._head = torch.compile(used, backend="tpu", fullgraph=True, dynamic=False)

    def calls(self) -> Iterator[tuple[str, Callable[[], Any]]]:
        """The calls in their order; each must be made before the next is asked for."""
        kept: dict[str, Any] = {}
        yield "lookup", lambda: kept.update(activations=self._form.look_up())
        if self._joint:
            yield "head", lambda: kept.update(found=self._head(*detached(kept["activations"])))
            yield "update", lambda: self._form.embedding.apply_gradients([*kept["found"][1:]])
            return
        yield "head", lambda: kept.update(loss=self._head(*kept["activations"]))
        if self._training:
            yield "backward", lambda: kept["loss"].backward()
            yield "update", self._form.update


def detached(activations: list[Any]) -> list[Any]:
    """The activations as numbers alone."""
    return [each.detach() for each in activations]


class Calls:
    """Watches what calls compile and run.

    Args:
        folder: into which XLA dumps the programs.
    """

    def __init__(self, folder: Path) -> None:
        from torch_tpu._internal.device import _device_ops_backend

        self._stats = _device_ops_backend._get_cache_stats
        self._folder = folder
        self._seen: set[Path] = set()
        self._asked = 0
        self.during("start", lambda: None)

    def during(self, name: str, call: Callable[[], Any]) -> dict[str, Any]:
        """Make a call. Gives its name, the programs that it has compiled, and how often it asked for one:
        an operator asks whenever it is called, a function of `torch.compile` only to be compiled."""
        import torch_tpu_embedding as tte

        call()
        tte.runtime.sync(wait=True)
        asked, before = self._stats().num_cache_reqs, self._asked
        self._asked = asked
        new = sorted(set(self._folder.glob(f"*{DUMPED}")) - self._seen)
        self._seen.update(new)
        return {"call": name, "programs": new, "asked": asked - before}


def together(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """A call's programs with the number of runs in a step, from what `Calls.during` saw in two steps.

    The operators of a call count as often as their mean, if some run more often than others.

    >>> seen = {"call": "update", "programs": [Path("jit_f_L1C0_x"), Path("jit_add")], "asked": 3}
    >>> found = together(seen, {"call": "update", "programs": [], "asked": 2})
    >>> [(each["proto"], each["runs"]) for each in found["programs"]]
    [('jit_f_L1C0_x', 1.0), ('jit_add', 2.0)]
    """
    programs, asked = first["programs"], second["asked"]
    assert not second["programs"], f"the second step compiled {second['programs']}"
    functions = [path for path in programs if _OF_A_FUNCTION.search(path.name)]
    operators = len(programs) - len(functions)
    assert (operators > 0) == (asked > 0), f"{first['call']} runs a program of an earlier call"
    return {
        "call": first["call"],
        "programs": [
            {"proto": str(path), "runs": 1.0 if path in functions else asked / operators}
            for path in programs
        ],
    }


if __name__ == "__main__":
    main()
