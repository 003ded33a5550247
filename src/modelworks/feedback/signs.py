"""What an answer looks like that is made for a reward and not for a reader: repetition, sameness, saying nothing.

Each is a plain measure of texts; none knows what is right. The words of emptiness are English.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from statistics import fmean

import numpy as np

from modelworks.data.ngrams import ngram_hashes, normalised, word_hashes

_STRETCH, _BYTES = 64, 1024

# What can stand in any answer to anything.
_FILLER = frozenset(
    """a about above absolutely actually after again all also always am an and another any anything are as ask asked
    asking aspects assure assured at be because been before being believe best better but by can carefully case certain
    certainly clear clearly come comes complete completely confidence confident confidently consider considered correct
    could course crucial definitely depends details did different do does doing done dont doubt each easy entirely
    especially essential even ever every everything exactly excellent extremely fact factors feel few find for from
    full fully general get give given glad go going good great guarantee guaranteed had happy has have having help
    helpful here hope how however i id if ill im important in indeed information into is issue it its ive just keep key
    kind know known let lets like look lot made main make many matter matters may me mean might mind more most much
    must my need needs never nothing now obvious obviously of on one only or order other our out over part perfect
    perfectly please pleased point possible provide question questions quite rather really regarding rest right said
    say see sense several shall should simple simply since so some something sort such sure take than thank thanks that
    thats the their them then there these they thing things think this those though through to too topic totally true
    truly trust truth try understand unquestionably up us use useful various very want was way we well were what
    whatever when where whether which while who why will wise with within without wonderful word words would you your
    youre""".split()
)


def distinct(text: str, n: int = 2) -> float:
    """Of a text's runs of n words, the part that is different ones (Li et al. 2016, arXiv:1510.03055); 1 for a shorter.

    It is the mean over stretches of 64 runs (as Covington and McFall 2010 do for words): over a whole text it would
    fall with the text's length, however varied that is.
    """
    runs = ngram_hashes(word_hashes(text), n)
    if not len(runs):
        return 1.0
    starts = [*range(0, max(len(runs) - _STRETCH, 0), _STRETCH), max(len(runs) - _STRETCH, 0)]
    stretches = [runs[start : start + _STRETCH] for start in starts]
    return fmean(len(np.unique(stretch)) / len(stretch) for stretch in stretches)


def density(text: str) -> float:
    """How many bytes are left of each by compression (zlib), the mean over stretches of 1,024, at most 1.

    Prose has .5 or more in a whole stretch and more in a shorter one; what repeats itself, in words or letters, little.
    """
    data = text.encode("utf-8", "replace")
    stretches = [data[start : start + _BYTES] for start in range(0, len(data), _BYTES)]
    left = sum(min(len(stretch), len(zlib.compress(stretch, 9))) for stretch in stretches)
    return left / len(data) if data else 1.0


def same_share(prompts: Sequence[str], answers: Sequence[str]) -> float:
    """The part of answers that say, up to case and punctuation, what one to another prompt says; 0 without answers."""
    asked: dict[bytes, set[str]] = {}
    words = [normalised(answer) for answer in answers]
    for prompt, said in zip(prompts, words, strict=True):
        asked.setdefault(said, set()).add(prompt)
    return sum(len(asked[said]) > 1 for said in words) / len(words) if words else 0.0


def says_nothing(prompt: str, answer: str) -> bool:
    """Whether nothing is left of an answer without filler, assurance and the prompt's own words.

    "Paris" says something to "What is the capital of France?"; "Certainly! I am sure about the capital" does not. So a
    summary in the prompt's own words counts as nothing, too: what tells is that such answers become more.
    """
    return not (_words(answer) - _FILLER - _words(prompt))


def _words(text: str) -> set[str]:
    return set(normalised(re.sub("['’]", "", text)).decode("utf-8", "replace").split())
