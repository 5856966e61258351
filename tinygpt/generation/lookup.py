"""
Prompt look-up decoding: guess the next tokens by what followed the same tokens earlier in the text, and verify all
guesses in one pass of the model.

The weights are read once for all tokens of a pass, so a further token costs less than the first. Where a text repeats
itself, as code, tables, lists and quotations do, one pass can give several tokens.

    (1) find     The last 3 tokens, or else the last 2, where they stood last in the text. What followed them there is
                 the guess; its first tokens, as many as are worth their cost, are the draft.
    (2) verify   One pass reads the newest token and the draft: logits after each of them (`Decoder.extend`).
    (3) accept   Sample the next token from the logits after the newest one, as without a draft. While the sample is
                 the token that the draft has there, the logits after it are those that a pass of its own would have
                 given: sample from them, too. At the first difference the rest of the draft is taken back
                 (`Decoder.truncate`).

Each pass gives at least the token that it gives without a draft. The text is never another one, greedy or not: each
token is sampled from logits of the same bits, by the same random number. Steps (2) and (3) are in generate.py.

How many tokens to draft. The longer the match, the more often the next token is right: after a match of 2 tokens in a
story one in four, after a match of 7 in code nearly each. So it is counted how often guesses are right, for each length
of match; in the prompt, too, and whether a guess was verified or not. With P(k), the probability that a guess is right
up to its token k, a pass over B texts with drafts of K tokens in all gives

    B + sum of P(k)      tokens for      1 + (B - 1 + K) _ROW_COST      times the cost of a pass over one token

and a token is drafted as long as it improves this ratio. A text that never repeats itself is read as without look-up.

Source: Saxena 2023, "Prompt Lookup Decoding" (github.com/apoorvumang/prompt-lookup-decoding); verification as in
        speculative decoding: Leviathan, Kalman & Matias 2023, arXiv:2211.17192.
Cost:   some microseconds and two entries of a dictionary per token of the text.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

_NGRAMS = (3, 2)  # tokens that are looked up, the longest first
_LONGEST = 8  # matches of this length or longer are counted together
_FADE = 0.98  # what earlier counts keep when a match is counted: the last 50 or so matter
_FIRST_RATE = 0.2  # of right guesses, before any was counted: too low for a draft
_PRIOR = 2.0  # each length begins as if so many of its guesses had been right as often as those of the length below
# Of one more row, beside a pass over one token. On a Zen 3, by the kernels before whole-number products: up to 8 rows
# 0.12 with float32 weights, 0.22 bfloat16, 0.44 int8; more for 16 rows.
_ROW_COST = 0.3
_MOST_ROWS = 16  # of a pass: as many tokens as `Decoder.extend` reads at once


class PromptLookup:
    """
    A text with an index of its n-grams, which guesses how it goes on.

    Parameters
    ----------
    tokens : iterable of int
        The text so far.

    Examples
    --------
    >>> lookup = PromptLookup([5, 6, 7, 8, 5, 6, 7])
    >>> lookup.guess(2)
    [8, 5]
    >>> lookup.append(9)
    >>> lookup.guess(2)
    []
    """

    def __init__(self, tokens: Iterable[int] = ()):
        self._tokens: list[int] = []
        self._next: dict[tuple[int, ...], int] = {}  # n-gram: the position after its last occurrence that has one
        self._source = 0  # the position of the guess for the next token
        self._matched = 0  # how many tokens before the source are those at the end of the text; 0: there is no guess
        self._right = [0.0] * (_LONGEST + 1)  # guesses, by length of match
        self._counted = [0.0] * (_LONGEST + 1)
        for token in tokens:
            self.append(token)

    def append(self, token: int) -> None:
        """Add the next token of the text, and count whether it was guessed."""
        tokens, n, matched = self._tokens, len(self._tokens), self._matched
        if matched:
            right = token == tokens[self._source]
            self._right[matched] = _FADE * self._right[matched] + right
            self._counted[matched] = _FADE * self._counted[matched] + 1
            self._source, self._matched = self._source + 1, min(matched + 1, _LONGEST) if right else 0
        for size in _NGRAMS:
            if n >= size:
                self._next[tuple(tokens[n - size :])] = n
        tokens.append(token)
        if self._matched < _NGRAMS[0]:
            self._find()

    def _find(self) -> None:
        """Look for a longer match than the one there is."""
        tokens, n = self._tokens, len(self._tokens)
        for size in _NGRAMS:
            source = self._next.get(tuple(tokens[n - size :])) if size > self._matched and n > size else None
            if source is not None:
                while size < min(_LONGEST, source) and tokens[source - size - 1] == tokens[n - size - 1]:
                    size += 1
                self._source, self._matched = source, size
                return

    def probabilities(self, count: int) -> list[float]:
        """P(1) to P(count): that a guess is right up to its token k. Those up to `_ROW_COST` are left out."""
        found: list[float] = []
        if not self._matched:
            return found
        rates = [_FIRST_RATE]
        for right, counted in zip(self._right[1:], self._counted[1:], strict=True):
            rates.append((right + _PRIOR * rates[-1]) / (counted + _PRIOR))
        p = rates[self._matched]
        while p > _ROW_COST and len(found) < count:
            found.append(p)
            p *= rates[min(self._matched + len(found), _LONGEST)]
        return found

    def guess(self, count: int) -> list[int]:
        """
        The next tokens, copied from where the end of the text stood before.

        The copy may reach the end of the text, and goes on with its own tokens: after "ha ha" comes "ha" for ever.

        Parameters
        ----------
        count : int

        Returns
        -------
        list of int
            As many; none if the end of the text stood nowhere before.
        """
        period = len(self._tokens) - self._source
        copied = self._tokens[self._source : self._source + count] if self._matched else []
        while copied and len(copied) < count:
            copied.append(copied[len(copied) - period])
        return copied


def draft(lookups: Sequence[PromptLookup], rooms: Sequence[int]) -> list[list[int]]:
    """
    The tokens to verify for each of several texts that one pass reads: the most probable ones first.

    Parameters
    ----------
    lookups : sequence of PromptLookup, (B,)
    rooms : sequence of int, (B,)
        The largest number of tokens that each text has room for.

    Returns
    -------
    list of list of int, (B,)

    Examples
    --------
    A text that repeated itself twenty times, and one that did not:

    >>> tokens, nothing = draft([PromptLookup([1, 2, 3] * 20), PromptLookup([1, 2, 3])], [4, 4])
    >>> tokens, nothing
    ([1, 2, 3, 1], [])
    """
    counts, rows, expected = [0] * len(lookups), len(lookups), float(len(lookups))
    p = [[*lookup.probabilities(min(room, _MOST_ROWS)), 0.0] for lookup, room in zip(lookups, rooms, strict=True)]
    while lookups and rows < _MOST_ROWS:
        best, i = max((p[i][count], i) for i, count in enumerate(counts))
        if best * (1 + (rows - 1) * _ROW_COST) <= expected * _ROW_COST:
            break
        counts[i], rows, expected = counts[i] + 1, rows + 1, expected + best
    return [lookup.guess(count) for lookup, count in zip(lookups, counts, strict=True)]
