"""The tiny tokenizer with tokens under their published ids, and chat templates in the published form."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, pre_tokenizers, processors

from tiny_tokenizer import BOS, EOS, EOT, HEADER, HEADER_END, LLAMA3, LLAMA31, TULU, build_tokenizer

CHATML = "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
GEMMA = (
    "{{ bos_token }}{% for m in messages %}{{ '<start_of_turn>' + ('model' if m['role'] == 'assistant' else m['role'])"
    " + '\n' + m['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
)
INSTRUCT = (
    "{{ bos_token }}{% for m in messages %}{{ '[INST] ' + m['content'] + ' [/INST]' if m['role'] == 'user' "
    "else ' ' + m['content'] + eos_token }}{% endfor %}"
)
PHI3 = "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + '<|end|>\n' }}{% endfor %}{{ eos_token }}"


@dataclass(frozen=True, kw_only=True)
class PublishedText:
    """`special` are special tokens by id, `words` plain ones; `named` says which is bos_token and so on.

    `adds_bos`: the tokenizer itself puts bos_token in front. `pair` joins two texts, for encoders.
    """

    template: str | None
    special: Mapping[str, int]
    named: Mapping[str, str]
    words: Mapping[str, int] = field(default_factory=dict)
    adds_bos: bool = False
    pair: str | None = None


_LLAMA3_TOKENS = {BOS: 128000, EOS: 128001, HEADER: 128006, HEADER_END: 128007, EOT: 128009}
LLAMA3_TEXT = PublishedText(
    template=LLAMA3,
    special={**_LLAMA3_TOKENS, "[PAD]": 128256},
    named={"bos_token": BOS, "eos_token": EOT, "pad_token": "[PAD]"},
    words={"assistant": 78191, "\n\n": 271},
    adds_bos=True,
)
LLAMA31_TEXT = replace(LLAMA3_TEXT, template=LLAMA31)
LLAMA3_NO_PAD = replace(LLAMA3_TEXT, special=_LLAMA3_TOKENS, named={"bos_token": BOS, "eos_token": EOT})
LLAMA2_TEXT = PublishedText(
    template=None,
    special={"<unk>": 0, "<s>": 1, "</s>": 2},
    named={"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"},
    words={"ки": 12902},  # the end of Math-Shepherd's step tag
    adds_bos=True,
)
MISTRAL_TEXT = replace(LLAMA2_TEXT, template=INSTRUCT)
QWEN_TEXT = PublishedText(
    template=CHATML,
    special={"<|endoftext|>": 151643, "<|im_start|>": 151644, "<|im_end|>": 151645, "<extra_0>": 151651},
    named={"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"},
)
GEMMA_TEXT = PublishedText(
    template=GEMMA,
    special={"<pad>": 0, "<eos>": 1, "<bos>": 2, "<start_of_turn>": 106, "<end_of_turn>": 107},
    named={"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>"},
    adds_bos=True,
)
INTERNLM2_TEXT = PublishedText(
    template="{{ bos_token }}" + CHATML,
    special={"<s>": 1, "</s>": 2, "<|im_end|>": 92542, "<|im_start|>": 92543, "<|reward|>": 92527},
    named={"bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>"},
    adds_bos=True,
)
PYTHIA_TEXT = PublishedText(
    template=None,
    special={"<|endoftext|>": 0, "<|padding|>": 1, "<|prompter|>": 50281, "<|assistant|>": 50279},
    named={"eos_token": "<|endoftext|>", "pad_token": "<|padding|>"},
)
PHI3_TEXT = PublishedText(
    template=PHI3,
    special={"<s>": 1, "<|endoftext|>": 32000, "<|assistant|>": 32001, "<|end|>": 32007, "<|user|>": 32010},
    named={"bos_token": "<s>", "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"},
)
OLMO2_TEXT = PublishedText(
    template="{{ bos_token }}" + TULU,
    special={"<|endoftext|>": 100257, "<|pad|>": 100277},
    named={"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>", "pad_token": "<|pad|>"},
)
DEBERTA_TEXT = PublishedText(
    template=None,
    special={"[PAD]": 0, "[CLS]": 1, "[SEP]": 2},
    named={"cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]"},
    pair="[CLS] $A [SEP] $B:1 [SEP]:1",
)
MODERNBERT_TEXT = PublishedText(
    template=None,
    special={"[CLS]": 50281, "[SEP]": 50282, "[PAD]": 50283},
    named={"cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]"},
    pair="[CLS] $A [SEP] $B [SEP]",
)


def write_tokenizer(folder: Path, text: PublishedText) -> None:
    """tokenizer.json, tokenizer_config.json and, where there is a template, chat_template.jinja."""
    build_tokenizer(folder)
    raw = json.loads((folder / "tokenizer.json").read_text())
    raw |= {"added_tokens": [], "post_processor": None}
    for word, index in {**text.words, **text.special}.items():
        _move(raw["model"]["vocab"], word if word in text.special else _spelled(word), index)
    tokenizer = Tokenizer.from_str(json.dumps(raw))
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in text.special])
    if pattern := text.pair or (f"{text.named['bos_token']} $A" if text.adds_bos else None):
        tokenizer.post_processor = _post_processor(pattern, text)
    tokenizer.save(str(folder / "tokenizer.json"))
    named = {**text.named, "tokenizer_class": "PreTrainedTokenizerFast"}
    (folder / "tokenizer_config.json").write_text(json.dumps(named))
    (folder / "chat_template.jinja").unlink()
    if text.template is not None:
        (folder / "chat_template.jinja").write_text(text.template)


def _move(vocabulary: dict[str, int], token: str, index: int) -> None:
    """Give `token` the id `index`; whoever had it gets the token's old id, or the next free one."""
    free = vocabulary.get(token, max(vocabulary.values()) + 1)
    for other, taken in vocabulary.items():
        if taken == index:
            vocabulary[other] = free
            break
    vocabulary[token] = index


def _spelled(word: str) -> str:
    [(spelled, _)] = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(word)
    return spelled


def _post_processor(pattern: str, text: PublishedText) -> Any:
    single = pattern if text.pair is None else "[CLS] $A [SEP]"
    names = [token for token in text.special if token in pattern]
    tokens = [(name, text.special[name]) for name in names]
    return processors.TemplateProcessing(single=single, pair=text.pair, special_tokens=tokens)
