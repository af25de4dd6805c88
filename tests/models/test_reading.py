"""Text encoders: which layer, which length, which words."""

import torch

from tests.tiny import LETTERS, sd3_pipe, t5_tokenizer, tokenizer
from workbench.models import reading


def test_t5_reads_as_many_tokens_as_the_model_or_its_tokenizer_allows() -> None:
    assert reading.t5_length(t5_tokenizer(), 120) == 24
    assert reading.t5_length(t5_tokenizer(), 8) == 8


def test_a_prompt_is_padded_and_cut_to_the_length() -> None:
    ids, mask = reading.tokenized(t5_tokenizer(), ["the red cat", "a " * 20], 8, torch.device("cpu"))
    assert ids.shape == mask.shape == (2, 8)
    assert mask.sum(1).tolist() == [4, 8]


def test_clip_says_its_last_layer_but_one_and_its_projection() -> None:
    pipe = sd3_pipe()
    ids, states, pooled = reading.clip_states(pipe.tokenizer, pipe.text_encoder, ["a cat"])
    out = pipe.text_encoder(ids, output_hidden_states=True)
    assert torch.equal(states, out.hidden_states[1])  # of two layers: after the first
    assert torch.equal(pooled, out.text_embeds)


def test_only_a_masked_t5_overlooks_its_padding() -> None:
    pipe = sd3_pipe()
    given = (t5_tokenizer(), pipe.text_encoder_3, ["a cat"])
    short, long = (reading.t5_states(*given, length, masked=True)[1][:, :3] for length in (6, 20))
    torch.testing.assert_close(short, long)
    short, long = (reading.t5_states(*given, length)[1][:, :3] for length in (6, 20))
    assert (short - long).abs().max() > 1e-4


def test_the_words_of_either_tokenizer_are_those_it_has_whole() -> None:
    clip = reading.lexicon(tokenizer())
    assert {"cat", "dog", "the"} <= set(clip)
    assert clip[0] == ""  # a letter that does not end a word
    t5 = reading.lexicon(t5_tokenizer())
    assert {"cat", "dog", "the"} <= set(t5)
    assert t5[0] == ""  # padding
    assert len(clip) == len(tokenizer())
    assert {word for word in t5 if word in LETTERS} <= {"a", ""}
