"""The cleaning of prompts that all encoders share, and a tokenizer of words."""

import html
import re
import unicodedata
from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from longlive_models.prompts.report import PromptReport

_WORD = re.compile(r"[^\W_]+(?:['’\-][^\W_]+)*")


def clean(prompt: str) -> str:
    """Undo HTML escapes (twice: some data is escaped twice) and collapse white space.

    Text that was decoded wrongly is not repaired: the result would depend on the packages that are
    installed, and on their versions.
    """
    return " ".join(html.unescape(html.unescape(prompt)).split())


def words(prompt: str) -> list[str]:
    """The words of a prompt, case folded, without punctuation; hyphens and apostrophes join."""
    return _WORD.findall(clean(prompt).casefold())


class WordTokenizer:
    """A tokenizer with one number for each word: 0 pads, 1 is any unknown word, 2 ends the prompt.

    Prompts of more than ``text_len - 1`` words lose those past the limit: ``read`` says which.
    Raises ValueError if an entry of ``vocab`` occurs twice or is not one word in the form that
    ``words`` gives.
    """

    PAD, UNKNOWN, END = 0, 1, 2
    SPECIAL = ("<pad>", "<unk>", "<end>")

    def __init__(self, vocab: Sequence[str], text_len: int) -> None:
        self.text_len = text_len
        self._words = (*self.SPECIAL, *vocab)
        self._ids = {word: number for number, word in enumerate(self._words)}
        for word in vocab:
            if words(word) != [word]:
                raise ValueError(
                    f"a vocabulary holds single words in lower case, got {word!r}: no prompt "
                    f"would ever match it. Use {words(word)}."
                )
        if len(self._ids) < len(self._words):
            twice = sorted({word for word in vocab if self._words.count(word) > 1})
            raise ValueError(
                f"a vocabulary holds each word once, got {', '.join(twice)} more than once: a word "
                f"has one number. Remove the repetitions."
            )

    def __len__(self) -> int:
        """The size of the vocabulary, special tokens included."""
        return len(self._words)

    def tokenize(self, prompts: Sequence[str]) -> Int[Tensor, "prompts text_len"]:
        """Token numbers, int64 on the CPU; each row holds words, one end, then padding."""
        ids = torch.full((len(prompts), self.text_len), self.PAD, dtype=torch.int64, device="cpu")
        for row, prompt in zip(ids, prompts, strict=True):
            known = [self._ids.get(word, self.UNKNOWN) for word in words(prompt)]
            numbers = [*known[: self.text_len - 1], self.END]
            row[: len(numbers)] = torch.tensor(numbers, dtype=torch.int64, device="cpu")
        return ids

    def detokenize(self, ids: Int[Tensor, " tokens"]) -> str:
        """The words of one row up to its end, joined by spaces."""
        numbers = ids.tolist()
        end = numbers.index(self.END) if self.END in numbers else len(numbers)
        return " ".join(self._words[number] for number in numbers[:end])

    @property
    def known_words(self) -> tuple[str, ...]:
        """The words that have a number of their own."""
        return self._words[len(self.SPECIAL) :]

    def read(self, prompt: str) -> PromptReport:
        """Report what is left out of a prompt: unknown words or symbols, words past a limit."""
        most = self.text_len - 1
        symbols = (sign for sign in clean(prompt) if unicodedata.category(sign)[0] == "S")
        return PromptReport(
            unknown=(*self.unknown(prompt), *dict.fromkeys(symbols)),
            left_out=" ".join(words(prompt)[most:]),
            limit=f"{most} words",
        )

    def unknown(self, prompt: str) -> tuple[str, ...]:
        """The words of ``prompt`` that have no number of their own, each once, in order."""
        return tuple(dict.fromkeys(word for word in words(prompt) if word not in self._ids))
