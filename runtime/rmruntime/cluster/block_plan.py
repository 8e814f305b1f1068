"""The plan of a run, kept in the journal: a later run compares it to decide whether it may continue the earlier one."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rmruntime.bundle.engine_record import manifest_digest
from rmruntime.bundle.manifest import MANIFEST_NAME
from rmruntime.cluster.blocks import Block, block_size, cut_blocks
from rmruntime.cluster.options import ClusterOptions
from rmruntime.errors import BundleError, ClusterError
from rmruntime.options import ScoreOptions
from rmruntime.score_file import FileOptions

FORMAT = 1
# What changes scores. `on_error` does not: a run that stopped at a bad record may go on by skipping it.
ENGINE_OPTIONS = ("device", "precision", "dialect")
_CHUNK = 1 << 20


@dataclass(frozen=True, kw_only=True)
class InputFile:
    """An input file's name, size in bytes and, for Parquet, digest; for other files each block has a digest."""

    name: str
    size: int
    sha256: str | None


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run scores, and how: `manifest` (the digest of the bundle's), the options, the input's files and blocks.

    `options` are those that change scores, `shards` the format of the output, `block_records` the records per block.
    """

    manifest: str
    options: dict[str, Any]
    shards: str
    block_records: int
    files: tuple[InputFile, ...]
    blocks: tuple[Block, ...]

    @property
    def records(self) -> int:
        """Lines or rows of all blocks."""
        return sum(block.count for block in self.blocks)

    @property
    def digest(self) -> str:
        """sha256 of the whole plan, as hexadecimal digits."""
        return hashlib.sha256(self.encoded().encode()).hexdigest()

    def shard(self, block: Block) -> str:
        """The file name of a block's records; names sort in the order of the blocks."""
        width = max(5, len(str(len(self.blocks))))
        return f"part-{block.index:0{width}}-of-{len(self.blocks):0{width}}.{self.shards}"

    def encoded(self) -> str:
        """The plan as JSON, one block per line."""
        fields = {"format": FORMAT, **asdict(self)}
        blocks = ",\n  ".join(json.dumps(block) for block in fields.pop("blocks"))
        return f'{json.dumps(fields, indent=1)[:-2]},\n "blocks": [\n  {blocks}\n ]\n}}\n'


def decoded_plan(text: str, path: Path) -> Plan:
    """The plan that `encoded` wrote; `path` is its file, for the message. Raises ClusterError for anything else.

    >>> plan = Plan(manifest="ab", options={}, shards="jsonl", block_records=128, files=(), blocks=())
    >>> decoded_plan(plan.encoded(), Path("plan.json")) == plan
    True
    """
    try:
        fields = json.loads(text)
        if fields.pop("format") != FORMAT:
            raise ValueError(f"expected format {FORMAT}")
        files = tuple(InputFile(**file) for file in fields.pop("files"))
        return Plan(files=files, blocks=tuple(Block(**block) for block in fields.pop("blocks")), **fields)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ClusterError(f"{path}: found no plan of this version ({error}); begin anew with --overwrite") from error


def make_plan(
    bundle: Path, inputs: tuple[Path, ...], files: FileOptions, options: ScoreOptions, cluster: ClusterOptions
) -> Plan:
    """The plan of a run. Reads all of the input, to cut it into blocks and hash them, without parsing records.

    Raises BundleError where `bundle` has no manifest, RewardModelError for a file that cannot be read.

    >>> _ = Path("manifest.json").write_text("{}")
    >>> _ = Path("three.jsonl").write_text('{"text": "a"}\\n' * 3)
    >>> files = FileOptions(input="three.jsonl", output="scores")
    >>> make_plan(Path(), (Path("three.jsonl"),), files, ScoreOptions(), ClusterOptions()).records
    3
    """
    size = cluster.block_records or block_size(inputs)
    return Plan(
        manifest=bundle_digest(bundle),
        options=asdict(options) | {name: getattr(files.engine, name) for name in ENGINE_OPTIONS},
        shards=cluster.shards,
        block_records=size,
        files=tuple(InputFile(name=p.name, size=p.stat().st_size, sha256=_table_digest(p)) for p in inputs),
        blocks=tuple(cut_blocks(inputs, size)),
    )


def bundle_digest(bundle: Path) -> str:
    """The digest of a bundle's manifest, which stands for all of its content: it has the digests of the other files.

    Raises BundleError where there is no manifest.

    >>> _ = Path("manifest.json").write_text("{}")
    >>> bundle_digest(Path())[:12]
    '44136fa355b3'
    """
    try:
        return manifest_digest(bundle)
    except OSError as error:
        raise BundleError(
            f"{bundle} is not a bundle: no {MANIFEST_NAME} can be read ({error.strerror}); give a folder that "
            "`rmexport export` made"
        ) from error


def differences(then: Plan, now: Plan) -> Iterator[str]:
    """The differences between an earlier plan and this run's, as clauses for a message, the most important first.

    >>> from dataclasses import replace
    >>> plan = Plan(manifest="ab", options={"max_length": None}, shards="jsonl", block_records=9, files=(), blocks=())
    >>> list(differences(plan, replace(plan, options={"max_length": 512})))
    ['max_length (None then, 512 now)']
    """
    if then.manifest != now.manifest:
        yield f"the bundle (manifest {then.manifest[:12]} then, {now.manifest[:12]} now)"
    for name in dict.fromkeys((*then.options, *now.options)):
        before, after = then.options.get(name), now.options.get(name)
        if before != after:
            yield f"{name} ({before!r} then, {after!r} now)"
    if then.shards != now.shards:
        yield f"the shards ({then.shards} then, {now.shards} now)"
    yield from _file_differences(then, now)
    if then.files == now.files and then.block_records != now.block_records:
        yield f"the records of a block ({then.block_records} then, {now.block_records} now)"


def _file_differences(then: Plan, now: Plan) -> Iterator[str]:
    before, after = ([file.name for file in plan.files] for plan in (then, now))
    if before != after:
        yield f"the input files ({', '.join(before)} then, {', '.join(after)} now)"
        return
    changed = [b.name for a, b in zip(then.files, now.files, strict=True) if a != b]
    if not changed and then.block_records == now.block_records:
        pairs = zip(then.blocks, now.blocks, strict=False)
        changed = list(dict.fromkeys(now.files[b.file].name for a, b in pairs if a != b))
    if changed:
        yield f"the content of {', '.join(changed)}"


def _table_digest(path: Path) -> str | None:
    if path.suffix != ".parquet":
        return None
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
