"""The arguments that say which checkpoint is meant and how it is read: of `inspect` and `export`."""

from __future__ import annotations

TYPE_CHECKING = False  # typing's own takes time to import
if TYPE_CHECKING:
    import argparse

    from rmexport.options import ExportOptions


def add_checkpoint_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments that say which checkpoint is meant, and how it is read."""
    from rmexport.options import ExportOptions

    parser.add_argument("--recipe", help="a built-in recipe's name or a path to a .json recipe")
    parser.add_argument("--revision", help="branch, tag or commit of a Hub repository")
    parser.add_argument("--dtype", choices=("auto", "bf16", "fp16", "fp32"), default="auto")
    parser.add_argument("--bos", choices=("one", "zero", "as-is"), help="BOS policy (default: as apply_chat_template)")
    parser.add_argument("--step-joiner", help="text between steps that a sequence head scores as partial answers")
    parser.add_argument("--score-label", help="which label of a classifier with several is the score")
    parser.add_argument("--pinned-date", default=ExportOptions.pinned_date, help="today, for templates that ask")


def export_options(arguments: argparse.Namespace) -> ExportOptions:
    """The options of an export, from the arguments of the same names."""
    from rmexport.options import ExportOptions

    known = {name: value for name, value in vars(arguments).items() if name in ExportOptions.__dataclass_fields__}
    return ExportOptions(**known)
