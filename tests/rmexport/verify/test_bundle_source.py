"""The checkpoint of a bundle: opened with the export's choices, refused where it is another one."""

from pathlib import Path

import pytest

from rmexport import ExportOptions, OptionError, VerificationError, export
from rmexport.verify.bundle_source import open_source
from rmexport.verify.options import VerifyOptions
from rmruntime.bundle import Bundle
from rmruntime.bundle.manifest import Manifest
from tiny_checkpoints import TinyShape, sequence_classifier


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source")
    checkpoint = str(sequence_classifier(folder / "c").folder)
    export(checkpoint, folder / "plain", ExportOptions(dtype="fp32", pinned_date="2025-01-01"))
    export(checkpoint, folder / "int8", ExportOptions(quantize="int8"))
    return folder


def manifest(place: Path, name: str) -> Manifest:
    return Bundle.open(place / name).manifest


def test_the_choices_of_the_export_are_kept_but_quantization(place: Path) -> None:
    plain = open_source(manifest(place, "plain"), str(place / "c"), VerifyOptions())
    assert plain.checkpoint.folder == place / "c"
    assert (plain.export_options.dtype, plain.export_options.pinned_date) == ("fp32", "2025-01-01")
    assert open_source(manifest(place, "int8"), str(place / "c"), VerifyOptions()).export_options.quantize is None


def test_a_recipe_that_has_moved_is_given_again(place: Path) -> None:
    source = open_source(manifest(place, "plain"), str(place / "c"), VerifyOptions(recipe="moved.json"))
    assert source.export_options.recipe == "moved.json"


@pytest.mark.parametrize(
    ("options", "name"), [(VerifyOptions(quality="strict"), "--quality"), (VerifyOptions(against="b"), "--against")]
)
def test_options_about_quantization_need_some(place: Path, options: VerifyOptions, name: str) -> None:
    with pytest.raises(OptionError, match=f"^{name} is about quantized bundles"):
        open_source(manifest(place, "plain"), str(place / "c"), options)
    assert open_source(manifest(place, "int8"), str(place / "c"), options).export_options.quantize is None


def test_another_checkpoint_is_named_by_the_files_that_differ(place: Path, tmp_path: Path) -> None:
    other = sequence_classifier(tmp_path / "other", TinyShape(num_hidden_layers=2)).folder
    with pytest.raises(VerificationError, match=r"is not the checkpoint .*model\.safetensors.* differ"):
        open_source(manifest(place, "plain"), str(other), VerifyOptions())
