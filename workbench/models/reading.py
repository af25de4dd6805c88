"""What tokenizers and text encoders say of prompts, each encoder's way apart: CLIP's towers and T5's."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def tokenized(tokenizer: Any, prompts: Sequence[str], length: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Ids and mask [R, L] of prompts, cut or padded to a length."""
    batch = tokenizer(list(prompts), padding="max_length", max_length=length, truncation=True, return_tensors="pt")
    return batch.input_ids.to(device), batch.attention_mask.to(device)


def token_ids(tokenizer: Any, prompts: Sequence[str], device: torch.device) -> Tensor:
    """Ids [R, L] of prompts at the tokenizer's own length."""
    return tokenized(tokenizer, prompts, tokenizer.model_max_length, device)[0]


def clip_states(tokenizer: Any, tower: Any, prompts: Sequence[str]) -> tuple[Tensor, Tensor, Tensor]:
    """Ids [R, L], the last but one layer [R, L, D] and the projected text [R, E] of a CLIP tower with projection."""
    ids = token_ids(tokenizer, prompts, tower.device)
    out = tower(ids, output_hidden_states=True)
    return ids, out.hidden_states[-2], out[0]


def t5_length(tokenizer: Any, most: int) -> int:
    """How many tokens a T5 reads here: as many as the model was trained with, or fewer where its tokenizer says so."""
    return min(most, tokenizer.model_max_length)


def t5_states(
    tokenizer: Any, tower: Any, prompts: Sequence[str], length: int, masked: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """Ids [R, L], last states [R, L, D] and mask [R, L] of a T5 encoder, which heeds the mask where `masked`."""
    ids, mask = tokenized(tokenizer, prompts, length, tower.device)
    return ids, tower(ids, attention_mask=mask if masked else None)[0], mask


def lexicon(tokenizer: Any) -> tuple[str, ...]:
    """The whole word that each id stands for, "" for pieces, signs and marks.

    Byte-level BPE marks where words end; sentencepiece marks where they start, and the words it has whole are those
    that it says in one piece.
    """
    texts: list[str] = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    if any(text.endswith("</w>") for text in texts):
        stems = [text.removesuffix("</w>") if text.endswith("</w>") else "" for text in texts]
    else:
        stems = [text.removeprefix("▁") if text.startswith("▁") else "" for text in texts]
    return tuple(stem if stem.isascii() and stem.isalnum() else "" for stem in stems)
