"""Run scripts written for Lightning 1.x, show plans, look into checkpoints, replay steps."""

import argparse
import importlib
import importlib.util
import json
import os
import sys
from collections.abc import Sequence
from typing import Any

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and give its exit code."""
    parser = argparse.ArgumentParser(prog="python -m leyden", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    looking = commands.add_parser("inspect", help="show what a checkpoint holds, without torch")
    looking.add_argument("checkpoint")
    looking.add_argument("--json", action="store_true", help="all of it, for programs")
    joining = commands.add_parser("consolidate", help="make one file of a checkpoint directory")
    joining.add_argument("folder", help="the directory, to which each process wrote its part")
    joining.add_argument("file", help="the file to write")
    again = commands.add_parser("replay", help="run steps of a run again and compare their bits")
    again.add_argument("run_dir", help="the log directory, with journal.jsonl")
    again.add_argument("--steps", required=True, metavar="A:B", help="first and last, from 0")
    again.add_argument(
        "--make",
        required=True,
        metavar="MODULE:FUNCTION",
        help="gives (model, train loader) or (model, train loader, val loaders), as in the run",
    )
    running = commands.add_parser("run", help="run a script; import pytorch_lightning gives leyden")
    planning = commands.add_parser("plan", help="print the plan of a script's Trainer, run nothing")
    for parser_of_script in (running, planning):
        parser_of_script.add_argument("script")
        parser_of_script.add_argument("arguments", nargs=argparse.REMAINDER)
    asking = commands.add_parser(
        "doctor", help="versions, devices, extras, and what each argument can use here"
    )
    asking.add_argument("--json", action="store_true", help="all of it, for programs")
    given = parser.parse_args(arguments)
    run = {
        "consolidate": _consolidate,
        "doctor": _doctor,
        "inspect": _inspect,
        "plan": _plan,
        "replay": _replay,
        "run": _run,
    }[given.command]
    return run(given)


def _run(given: argparse.Namespace) -> int:
    from leyden.commands import run_script

    return run_script(given.script, given.arguments)


def _plan(given: argparse.Namespace) -> int:
    from leyden.commands import plan_script

    return plan_script(given.script, given.arguments)


def _consolidate(given: argparse.Namespace) -> int:
    from leyden.consolidate import consolidate
    from leyden.engine.errors import MisconfigurationException
    from leyden.handlers.checkpoint_io import CheckpointError

    try:
        consolidate(given.folder, given.file)
    except (CheckpointError, MisconfigurationException, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{given.file}: {os.path.getsize(given.file):,} bytes")
    return 0


def _doctor(given: argparse.Namespace) -> int:
    from leyden.doctor import doctor, findings

    print(json.dumps(findings(), indent=2) if given.json else doctor())
    return 0


def _inspect(given: argparse.Namespace) -> int:
    try:
        found = _inspector().inspect(given.checkpoint)
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    if given.json:
        print(json.dumps(found, default=str, indent=2))
        return 0
    file = found["file"]
    damaged = file["damaged"]
    print(f"{file['path']}: {file['bytes']:,} bytes, {file['records']} records, ", end="")
    print("every checksum is right" if damaged is None else f"DAMAGED: record {damaged}")
    print(f"{found['parameters']:,} numbers in state_dict, {len(found['tensors'])} tensors in all")
    for key, word in found["keys"].items():
        value = found["values"].get(key)
        print(f"  {key}: {word if value is None else value}")
    for name, tensor in found["tensors"].items():
        if name.startswith("state_dict."):
            print(f"    {name.removeprefix('state_dict.')}: {tensor}")
    if found["names"]:
        print(f"it names more than data: {', '.join(found['names'])}")
    return 0 if damaged is None else 1


def _inspector() -> Any:
    """The file that looks into checkpoints, by itself: its package would import torch."""
    package = importlib.util.find_spec("leyden.handlers")
    assert package is not None and package.submodule_search_locations
    path = os.path.join(package.submodule_search_locations[0], "checkpoint_inspect.py")
    spec = importlib.util.spec_from_file_location("leyden_checkpoint_inspect", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _replay(given: argparse.Namespace) -> int:
    from leyden.replaying import replay

    first, _, last = given.steps.partition(":")
    module, _, function = given.make.partition(":")
    if not (first.isdigit() and (last or first).isdigit() and function):
        print(
            f"--steps {given.steps} --make {given.make}: write --steps 1200:1210 and "
            "--make package.module:function",
            file=sys.stderr,
        )
        return 2
    sys.path.insert(0, os.getcwd())
    parts = getattr(importlib.import_module(module), function)()
    found = replay(given.run_dir, (int(first), int(last or first)), *parts)
    print(found)
    return 0 if found.exact else 1


if __name__ == "__main__":
    sys.exit(main())
