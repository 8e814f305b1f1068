"""Writes a tiny Llama-3-like tokenizer folder: tokenizer.json, tokenizer_config.json, chat template. No network.

Byte-level BPE without training: merges spell a few words left to right, so the files are the same on every machine.
As in Llama 3, '+' is id 10, '-' is id 12, a blank line is one token and the post-processor adds a BOS.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors

TemplateName = Literal["llama3", "llama3.1", "tulu"]

BOS, EOS, PAD = "<|begin_of_text|>", "<|end_of_text|>", "[PAD]"
HEADER, HEADER_END, EOT = "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"
SPECIALS = (BOS, EOS, HEADER, HEADER_END, EOT, PAD)
WORDS = (
    *("\n\n", ".\n", "user", "assistant", "system", " the", " and", " is", " of", " to", " in", " you", " that"),
    *(" answer", " step", " number", " sum", "Step", "What", "The", " question", " because", " therefore", "ing"),
    *(" good", " bad", " helpful", " honest", "Hello", " world", "ки", " ки"),
)
PRE_TOKENIZER = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

LLAMA3 = r"""
{{- bos_token }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' }}
    {{- message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}
{%- endif %}
"""
LLAMA31 = r"""
{{- bos_token }}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}
        {%- set date_string = strftime_now("%d %b %Y") %}
    {%- else %}
        {%- set date_string = "26 Jul 2024" %}
    {%- endif %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content'] | trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\n\n" }}
{{- "Cutting Knowledge Date: December 2023\nToday Date: " + date_string + "\n\n" }}
{{- system_message + "<|eot_id|>" }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}
{%- endif %}
"""
TULU = r"""
{%- for message in messages %}
    {%- if message['role'] not in ('system', 'user', 'assistant') %}
        {{- raise_exception('unknown role ' + message['role']) }}
    {%- endif %}
    {{- '<|' + message['role'] + '|>\n' + message['content'] }}
    {%- if message['role'] == 'assistant' %}
        {{- eos_token }}
    {%- endif %}
    {%- if not loop.last or message['role'] != 'assistant' %}
        {{- '\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|assistant|>\n' }}
{%- endif %}
"""
TEMPLATES: dict[TemplateName, str] = {"llama3": LLAMA3, "llama3.1": LLAMA31, "tulu": TULU}


@dataclass(frozen=True, kw_only=True)
class TinyTokenizer:
    """The ids tests want to name; `vocab_size` is one more than the largest id."""

    folder: Path
    vocab_size: int
    bos_id: int
    eos_id: int
    eot_id: int
    pad_id: int
    assistant_header: tuple[int, ...]
    gate_pattern: tuple[int, ...]
    variables: dict[str, str]
    plus_id: int = 10
    minus_id: int = 12


def build_tokenizer(
    folder: Path, template: TemplateName = "llama3", *, pad: str | None = PAD, chat_template: str | None = None
) -> TinyTokenizer:
    """Write the files into `folder` (made if missing); `chat_template` replaces the named template's source.

    `pad` is the pad token of the config: PAD (a token of its own), EOS (as some checkpoints have it) or None.
    The folder loads with transformers' AutoTokenizer and with rmruntime.
    """
    folder.mkdir(parents=True, exist_ok=True)
    source = TEMPLATES[template] if chat_template is None else chat_template
    tokenizer = _tokenizer()
    tokenizer.save(str(folder / "tokenizer.json"))
    variables = {"bos_token": BOS, "eos_token": EOS} | ({} if pad is None else {"pad_token": pad})
    config = variables | {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 8192}
    config |= {"clean_up_tokenization_spaces": False, "chat_template": source}
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
    (folder / "chat_template.jinja").write_text(source, encoding="utf-8")
    return _describe(folder, tokenizer, variables)


def _tokenizer() -> Tokenizer:
    vocab, merges = _vocabulary()
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    split = pre_tokenizers.Split(Regex(PRE_TOKENIZER), behavior="isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(text, normalized=False, special=True) for text in SPECIALS])
    bos = tokenizer.token_to_id(BOS)
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, bos)])
    return tokenizer


def _vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    # GPT-2's alphabet: the printable bytes stand for themselves and come first, so '!' is 0 as in Llama 3.
    vocab = {character: index for index, character in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    merges: list[tuple[str, str]] = []
    for word in WORDS:
        [(spelled, _)] = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(word)
        for end in range(1, len(spelled)):
            if spelled[: end + 1] not in vocab:
                vocab[spelled[: end + 1]] = len(vocab)
                merges.append((spelled[:end], spelled[end]))
    return vocab, merges


def _describe(folder: Path, tokenizer: Tokenizer, variables: dict[str, str]) -> TinyTokenizer:
    def ids(text: str) -> tuple[int, ...]:
        return tuple(tokenizer.encode(text, add_special_tokens=False).ids)

    header = ids(f"{HEADER}assistant{HEADER_END}\n\n")
    return TinyTokenizer(
        folder=folder,
        vocab_size=tokenizer.get_vocab_size(),
        bos_id=tokenizer.token_to_id(BOS),
        eos_id=tokenizer.token_to_id(EOS),
        eot_id=tokenizer.token_to_id(EOT),
        pad_id=tokenizer.token_to_id(PAD),
        assistant_header=header,
        gate_pattern=(*ids(EOT), *header),
        variables=variables,
    )
