"""`fastload train`: run the reference training loop with either loader."""

import argparse
import importlib.util
import os
from dataclasses import asdict
from typing import Any, get_args

from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn

from fastload.tools.cli.console import (
    count,
    existing_file,
    file_errors,
    make_output,
    make_progress,
    result_file,
    warn,
    write_json,
)
from fastload.tools.cli.exits import Exit, lacking
from fastload.tools.training.config import (
    LoaderName,
    Precision,
    Step,
    TaskName,
    TrainingConfig,
    TrainingResult,
)
from fastload.tools.words import counted

SCHEMA_VERSION = 1


def add_parser(commands: Any) -> None:
    """Declare the command and its options."""
    parser = commands.add_parser(
        "train",
        help="run the reference training loop",
        description="Train a small module on real data. One seed gives the same losses with "
        "either loader; with --stream also with any number of workers and after interruptions. "
        "Several ranks: torchrun --nproc-per-node N -m fastload train trains one module; "
        "fastload's loader has --stream then.",
        allow_abbrev=False,
    )
    default = TrainingConfig()
    parser.add_argument("--task", choices=get_args(TaskName), default=default.task)
    parser.add_argument("--loader", choices=get_args(LoaderName), default=default.loader)
    parser.add_argument("--workers", type=count(0), default=default.workers, metavar="N")
    parser.add_argument("--epochs", type=count(1), default=default.epochs, metavar="N")
    parser.add_argument("--batch-size", type=count(1), default=default.batch_size, metavar="N")
    parser.add_argument(
        "--accumulate",
        type=count(1),
        default=default.accumulate,
        metavar="N",
        help="batches whose gradients are added up for one step of the optimizer",
    )
    parser.add_argument("--precision", choices=get_args(Precision), default=default.precision)
    parser.add_argument(
        "--encoder",
        type=existing_file,
        metavar="FILE",
        help="transfer learning: take over the encoder of another training's checkpoint, frozen",
    )
    parser.add_argument("--seed", type=count(0), default=default.seed, metavar="N")
    parser.add_argument(
        "--stream",
        action="store_true",
        help="give the seed to fastload's loader: losses don't depend on the number of workers",
    )
    parser.add_argument(
        "--checkpoint", type=result_file, metavar="FILE", help="save the training to FILE"
    )
    parser.add_argument(
        "--checkpoint-every",
        type=count(1),
        default=default.checkpoint_every,
        metavar="N",
        help=f"... after every N steps (default {default.checkpoint_every}), and at the end",
    )
    parser.add_argument(
        "--resume", action="store_true", help="go on from the checkpoint, if it exists"
    )
    parser.add_argument("--json", type=result_file, metavar="FILE", help="write result to FILE")
    parser.add_argument(
        "--plot",
        type=result_file,
        metavar="FILE",
        help="draw loss, accuracy and stall share into a PNG file",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> Exit:
    """Train, write the file, show the result."""
    try:
        config = _config(args)
    except ValueError as error:
        warn(f"fastload train: error: {error}")
        return Exit.USAGE
    if config.task == "digits" and importlib.util.find_spec("sklearn") is None:
        raise lacking(["sklearn"], "bench")
    if args.plot is not None and importlib.util.find_spec("matplotlib") is None:
        raise lacking(["matplotlib"], "plot")
    result = _train_with_progress(config)
    if int(os.environ.get("RANK", "0")) > 0:
        return Exit.OK  # the first rank tells the result of all
    if args.json is not None:  # before anything is shown, because stdout may be closed
        document = {"schema_version": SCHEMA_VERSION, "config": asdict(config)}
        write_json(args.json, {**document, "result": asdict(result)})
    if args.plot is not None:
        from fastload.tools.training.plot import save

        with file_errors(args.plot):
            save(result, args.plot)
    output = make_output()
    for line in _lines(config, result):
        output.print(line)
    return Exit.OK


def _config(args: argparse.Namespace) -> TrainingConfig:
    has_ranks = int(os.environ.get("WORLD_SIZE", "1")) > 1
    return TrainingConfig(
        task=args.task,
        loader=args.loader,
        workers=args.workers,
        epochs=args.epochs,
        batch_size=args.batch_size,
        seed=args.seed,
        stream=args.stream or (has_ranks and args.loader == "fastload"),
        accumulate=args.accumulate,
        precision=args.precision,
        encoder=None if args.encoder is None else str(args.encoder),
        checkpoint=None if args.checkpoint is None else str(args.checkpoint),
        checkpoint_every=args.checkpoint_every,
        resume=args.resume,
    )


def _train_with_progress(config: TrainingConfig) -> TrainingResult:
    from fastload.tools.training.reference_loop import train

    columns = (
        TextColumn("epoch {task.fields[epoch]}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.4f}  stalled {task.fields[stall]:.1%}"),
        TimeElapsedColumn(),
    )
    with make_progress(*columns) as progress:
        bar = progress.add_task("", total=None, epoch=1, loss=float("nan"), stall=0.0)
        running_loss: float | None = None

        def show(step: Step) -> None:
            nonlocal running_loss
            previous = step.loss if running_loss is None else running_loss
            running_loss = 0.95 * previous + 0.05 * step.loss
            progress.update(
                bar,
                completed=step.step,
                total=step.steps,
                epoch=step.epoch + 1,
                loss=running_loss,
                stall=step.stall_share,
            )

        return train(config, show)


def _lines(config: TrainingConfig, result: TrainingResult) -> list[str]:
    return [
        f"task       {config.task}, {counted(config.epochs, 'epoch')}, seed {config.seed}",
        f"loader     {config.loader}, {counted(config.workers, 'worker')}"
        + (f" in each of {result.ranks} ranks" if result.ranks > 1 else ""),
        f"loss       {result.loss:.6f}",
        f"accuracy   {result.accuracy:.2%} on held-out samples",
        f"speed      {result.samples_per_s:,.0f} samples/s in {result.elapsed_s:.1f} s",
        f"stalled    {result.stall_share:.1%} of the time, waiting for data",
    ]
