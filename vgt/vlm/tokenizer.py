"""Word-level tokenizers for the tiny VLMs, saved in Hugging Face format (docs/vgt.md 2.2, 2.3).

Each family keeps the quirk of its full-size sibling: InternVL knows ``<img>`` as one token, Qwen2.5-VL splits it
into ``<img`` and ``>``, so it has two start tokens.
"""

from __future__ import annotations

from transformers import PreTrainedTokenizerFast

from vgt.core.captions import vocabulary

PAD, UNKNOWN = "<|endoftext|>", "<unk>"
TURN_START, TURN_END = "<|im_start|>", "<|im_end|>"
IMAGE_CONTEXT = "<IMG_CONTEXT>"


def build(family: str) -> PreTrainedTokenizerFast:
    """A tokenizer over the words of the synthetic scenes; words are split at spaces, punctuation and newlines."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers

    image = ["<img>", "</img>"] if family == "internvl" else ["<img", ">", "</img"]
    special = [PAD, UNKNOWN, TURN_START, TURN_END, IMAGE_CONTEXT]
    tokens = [*special, "\n", *image, *vocabulary()]
    raw = Tokenizer(models.WordLevel({t: i for i, t in enumerate(tokens)}, unk_token=UNKNOWN))
    pattern = r"</?img|>|\n|[\w'-]+|[^\w\s]" if family != "internvl" else r"\n|[\w'-]+|[^\w\s]"
    raw.pre_tokenizer = pre_tokenizers.Split(Regex(pattern), "removed", invert=True)
    added = [*special[2:], *(image if family == "internvl" else [])]
    return PreTrainedTokenizerFast(
        tokenizer_object=raw,
        pad_token=PAD,
        unk_token=UNKNOWN,
        eos_token=TURN_END,
        additional_special_tokens=added,
        clean_up_tokenization_spaces=False,
    )


def unknown_words(tokenizer, text: str) -> list[str]:
    """Words of ``text`` that the tokenizer can only read as its unknown token, in order, each once."""
    if tokenizer.unk_token_id is None:
        return []
    found = tokenizer(text, return_offsets_mapping=True, add_special_tokens=False)
    words = (
        text[a:b]
        for token, (a, b) in zip(found["input_ids"], found["offset_mapping"], strict=True)
        if token == tokenizer.unk_token_id
    )
    return list(dict.fromkeys(words))
