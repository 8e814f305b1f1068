"""The arguments that `inspect` and `export` share: which checkpoint to read, and how."""

from __future__ import annotations

TYPE_CHECKING = False  # typing's own takes time to import
if TYPE_CHECKING:
    import argparse

    from rmexport.options import ExportOptions


def add_checkpoint_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that choose a checkpoint, and how it is read.

    >>> import argparse
    >>> parser = argparse.ArgumentParser()
    >>> add_checkpoint_arguments(parser)
    >>> parser.parse_args(["--dtype", "bf16"]).dtype
    'bf16'
    """
    from rmexport.options import ExportOptions

    parser.add_argument(
        "--recipe",
        help="how the checkpoint is scored: a built-in recipe's name (see `rmexport recipes`) or the path of a .json "
        "recipe (default: the one for this repository, if there is one)",
    )
    parser.add_argument("--revision", help="branch, tag or commit of a Hub repository (default: its main branch)")
    parser.add_argument(
        "--dtype",
        choices=("auto", "bf16", "fp16", "fp32"),
        default="auto",
        help="dtype of the weights and of the arithmetic (default: auto, the checkpoint's)",
    )
    parser.add_argument(
        "--bos",
        choices=("one", "zero", "as-is"),
        help="BOS tokens in front of a conversation: exactly one, none, or as the chat template writes them (default: "
        "the recipe's, else as-is)",
    )
    parser.add_argument(
        "--step-joiner", help="text between steps, where a head for whole sequences scores them as partial answers"
    )
    parser.add_argument("--score-label", help="the label whose output is the score, for classifiers with several")
    parser.add_argument(
        "--pinned-date",
        default=ExportOptions.pinned_date,
        help=f"the date that chat templates get as today's (default: {ExportOptions.pinned_date})",
    )


def export_options(arguments: argparse.Namespace) -> ExportOptions:
    """The options of an export, from the parsed arguments of the same names. Raises OptionError.

    >>> import argparse
    >>> export_options(argparse.Namespace(dtype="bf16", bundle="ignored")).dtype
    'bf16'
    """
    from rmexport.options import ExportOptions

    known = {name: value for name, value in vars(arguments).items() if name in ExportOptions.__dataclass_fields__}
    return ExportOptions(**known)
