"""Whether a text encoder takes in what it is trained with: every word of every caption."""

from collections.abc import Sequence

from longlive_core.names import few
from longlive_models.text import PocketTextConfig
from longlive_models.text.tokenizer import WordTokenizer, words
from longlive_recipes.moving_shapes.captions import MAX_WORDS, vocabulary


def check_captions(text: PocketTextConfig, prompts: Sequence[str], *, drawn: bool = True) -> None:
    """Raise ValueError where an encoder would lose words of what it is trained with or shows.

    Args:
        drawn: whether it is trained with the captions of drawn clips.
    """
    tokenizer = WordTokenizer(text.vocab, text.text_len)
    room = text.text_len - 1  # the end takes one
    if drawn and room < MAX_WORDS:
        raise ValueError(
            f"text.text_len={text.text_len} has room for {room} words, and captions have up to "
            f"{MAX_WORDS}: the last ones would be lost. Use {MAX_WORDS + 1} or more."
        )
    missing = sorted(set(vocabulary()) - set(text.vocab))
    if drawn and missing:
        raise ValueError(
            f"text.vocab lacks {len(missing)} words of the captions ({few(missing)}): they would "
            f"all read as one unknown word. Add them."
        )
    for number, prompt in enumerate(prompts):
        unknown = tokenizer.unknown(prompt)
        if unknown:
            raise ValueError(
                f"sample_prompts.{number} has words that the model does not know "
                f"({few(unknown)}): the sample would not show them. Use words of "
                f"text.vocab."
            )
        count = len(words(prompt))
        if count > room:
            raise ValueError(
                f"sample_prompts.{number} has {count} words, and text.text_len={text.text_len} has "
                f"room for {room}: the last ones would be lost. Shorten it."
            )
