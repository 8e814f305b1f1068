"""The facts by which heads are found: a `Candidate` before the family is known, and `HeadFacts` with the family's."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self

from rmexport.checkpoint import TensorInfo, TokenizerFiles
from rmexport.checkpoint.config_fields import architectures
from rmexport.checkpoint.label_names import label_names
from rmexport.errors import UnsupportedModel
from rmexport.graph.feed_forward import FeedForward, linear_value, one_row_layers
from rmexport.options import ExportOptions
from rmexport.prompt.recipe import Recipe, recipes
from rmexport.prompt.score_position import EndRule, score_position
from rmexport.prompt.template_probe import TemplateProbe
from rmruntime.bundle.manifest import Per, PositionRule


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A checkpoint's files and the user's options, before its family is known.

    `recipe` is the one that the user or the repository chose, None where neither did; `tokenizer_files` are the
    checkpoint's own.
    """

    config: Mapping[str, Any]
    tensors: Mapping[str, TensorInfo]
    tokenizer_files: TokenizerFiles
    recipe: Recipe | None
    options: ExportOptions

    @property
    def tokenizer(self) -> TokenizerFiles:
        """The checkpoint's files, with the recipe's chat template where it has one."""
        template = self.recipe.template if self.recipe else None
        return replace(self.tokenizer_files, template=template) if template else self.tokenizer_files

    @cached_property
    def text(self) -> TemplateProbe:
        """The tokenizer and the chat template that conversations are written with."""
        files = self.tokenizer
        return TemplateProbe(
            tokenizer_json=files.tokenizer_json,
            template=files.template,
            variables=files.special_tokens,
            pinned_date=self.options.pinned_date,
        )

    @property
    def architecture(self) -> str:
        """The class name in config.json, "?" where there is none."""
        return (*architectures(self.config), "?")[0]

    def tensor(self, name: str) -> TensorInfo:
        """A tensor that the head needs. Raises UnsupportedModel where it is missing: a recipe may name a wrong head."""
        if name not in self.tensors:
            asked = f"recipe {self.recipe.name!r}" if self.recipe else "this head"
            raise UnsupportedModel(
                f"{asked} needs the tensor {name}, which the checkpoint does not have; choose another with --recipe"
            )
        return self.tensors[name]

    def with_default_recipe(self, name: str | None) -> Self:
        """This candidate with the recipe `name`, where neither the user nor the repository chose one."""
        return self if self.recipe is not None or name is None else replace(self, recipe=recipes()[name])


@dataclass(frozen=True, kw_only=True)
class HeadFacts(Candidate):
    """The facts from which a head recognises a checkpoint and reads its settings: a candidate whose family is known.

    `embedding` and `lm_head` are the family's names of these two weights; `tied` tells that they are the same.
    `pad_id` is the pad token's id in config.json, else the default of transformers.
    """

    hidden_size: int
    embedding: str
    lm_head: str
    tied: bool
    pad_id: int | None

    @property
    def one_row_layers(self) -> dict[str, TensorInfo]:
        """The layers that could be a head by their shape: weights of one row outside the backbone, by layer's name."""
        return one_row_layers(self.tensors, self.hidden_size, self.embedding)

    @property
    def unit(self) -> Per:
        """What the recipe scores, steps or whole conversations; the latter without a recipe."""
        return self.recipe.unit if self.recipe else "sequence"

    def score_rule(self, default: EndRule) -> PositionRule:
        """The rule for the scored position: the recipe's, else `default` for whole conversations."""
        joiner = self.options.step_joiner
        return score_position(self.recipe, self.text, self.pad_id, default, step_joiner=joiner)

    def linear_value(self, layer: str) -> FeedForward:
        """One layer with one output, `layer.weight` and, where the checkpoint has it, `layer.bias`."""
        return linear_value(layer, self.hidden_size, bias=f"{layer}.bias" in self.tensors)

    def objective_names(self, count: int, *, stem: str, published: Sequence[str] = ()) -> tuple[str, ...]:
        """Names of `count` objectives, as from `label_names`.

        A recipe that the user chose must have `count` names; the names of one that was found by itself are used only
        where there are as many. Raises CheckpointError.
        """
        named = self.recipe.objectives if self.recipe else ()
        asked = named if self.options.recipe else ()
        return label_names(self.config, count, stem=stem, stated=asked, published=named or published)
