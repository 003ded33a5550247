"""Cleaners: each takes a text and gives it back without one kind of dirt. `CLEANERS` has them by name.

Every cleaner gives what it gave where it is asked again, and none adds anything but the stand-ins for what it masks.
"""

from __future__ import annotations

import codecs
import ipaddress
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from modelworks.core.errors import ConfigError
from modelworks.data.documents.build import drop_controls

Cleaner = Callable[[str], str]

EMAIL = "email@example.com"
ADDRESS = "192.0.2.1"
"""What stands for an e-mail address and for an IP address: reserved for examples (RFC 2606, RFC 5737)."""
MOST_REPEATS = 3

# Windows-1252 with its five holes as the control characters that web browsers put there.
_WINDOWS_1252 = {ord(bytes([byte]).decode("cp1252", "ignore") or chr(byte)): byte for byte in range(256)}
_INVISIBLE = re.compile("[\u00ad\u200b\u2060\u2061-\u2064\ufeff\ufff9-\ufffb\U000e0000-\U000e007f]")
_LIGATURES = str.maketrans({"ﬀ": "ff", "ﬁ": "fi", "ﬂ": "fl", "ﬃ": "ffi", "ﬄ": "ffl", "ﬅ": "st", "ﬆ": "st"})
_TRAILING = re.compile(r"[^\S\n]+$", re.MULTILINE)
_BLANK_LINES = re.compile(r"\n{4,}")
_POLICIES = ("terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies", "use cookies")
_BOILERPLATE = re.compile(
    r"(all rights reserved\.?|©.{0,80}|copyright (\(c\)|©).{0,80}|skip to (main )?content|(share|tweet|pin) this.{0,20}"
    r"|(accept|reject) (all )?cookies|(log|sign) in|sign up|subscribe( now)?|click here|read more|back to top|menu"
    r"|(page )?\d+ (of|/) \d+|advertisement)",
    re.IGNORECASE,
)
_EMAIL = re.compile(r"(?<![\w.+%-])[\w.+%-]{1,64}@(?:[\w-]{1,63}\.){1,8}[A-Za-z]{2,24}\b")
_ADDRESS = re.compile(
    r"(?<![\w.:])(?:\d{1,3}(?:\.\d{1,3}){3}|[0-9A-Fa-f]{0,4}(?::[0-9A-Fa-f]{0,4}){2,7})(?![\w:]|\.\d)"
)


def nfc(text: str) -> str:
    """Unicode's composed normal form: é as one character, however it was typed."""
    return unicodedata.normalize("NFC", text)


def mend_encoding(text: str) -> str:
    """UTF-8 that was read as Windows-1252 ("cafÃ©"), read aright.

    Only where the whole text is such: that text which was read aright comes out as valid UTF-8 in this way by chance
    is next to impossible, for one accented letter before a letter of ASCII rules it out.
    """
    while not text.isascii():
        try:
            mended = codecs.charmap_encode(text, "strict", _WINDOWS_1252)[0].decode()
        except UnicodeError:
            return text
        text = mended
    return text


def strip_controls(text: str) -> str:
    """No control characters, lone surrogates, marks of byte order or invisible characters; line ends as newlines.

    What joins and separates letters in Arabic, Indic scripts and emoji (U+200C, U+200D) stays.
    """
    text = drop_controls(text).replace("\x85", "\n").replace("\u2028", "\n").replace("\u2029", "\n\n")
    return text if text.isascii() else _INVISIBLE.sub("", text)


def expand_ligatures(text: str) -> str:
    """The letters of the Latin ligatures that PDFs keep: "ﬁ" as "fi"."""
    return text if text.isascii() else text.translate(_LIGATURES)


def trim_space(text: str) -> str:
    """No white space at line ends, before the first line and after the last; at most two blank lines in a row."""
    return _BLANK_LINES.sub("\n\n\n", _TRAILING.sub("", text)).strip("\n").rstrip()


def drop_boilerplate(text: str) -> str:
    """No lines that are nothing but furniture of a page: "Read more", "3 of 12", "© 2024 Example Ltd."."""
    return "\n".join(line for line in text.split("\n") if not _BOILERPLATE.fullmatch(line.strip()))


def drop_repeated_lines(text: str) -> str:
    """Lines of three words or more that occur more than three times, such as running heads, once each."""
    lines = text.split("\n")
    counts = Counter(line.strip() for line in lines)
    seen: set[str] = set()
    kept = []
    for line in lines:
        bare = line.strip()
        if counts[bare] > MOST_REPEATS and len(bare.split()) >= 3:
            if bare in seen:
                continue
            seen.add(bare)
        kept.append(line)
    return "\n".join(kept)


def c4_lines(text: str) -> str:
    """Only lines that C4 keeps (Raffel et al. 2020, section 2.2): for the web's prose, not for lists, verse or code.

    A line stays if it ends in a terminal punctuation mark and has at least five words, names no JavaScript, and has
    no phrase of a policy on cookies or privacy.
    """
    return "\n".join(line for line in text.split("\n") if _c4_keeps(line.strip()))


def _c4_keeps(line: str) -> bool:
    if not line.endswith((".", "!", "?", '"', "”")) or line.endswith("...") or len(line.split()) < 5:
        return False
    lower = line.lower()
    return "javascript" not in lower and not any(policy in lower for policy in _POLICIES)


def mask_emails(text: str) -> str:
    """Each e-mail address as `EMAIL`."""
    return _EMAIL.sub(EMAIL, text) if "@" in text else text


def mask_addresses(text: str) -> str:
    """Each IP address that can be reached from the internet, of version 4 or 6, as `ADDRESS`."""
    return _ADDRESS.sub(lambda match: ADDRESS if _is_public(match[0]) else match[0], text)


def _is_public(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_global
    except ValueError:
        return False


CLEANERS: Mapping[str, Cleaner] = {
    "encoding": mend_encoding,
    "controls": strip_controls,
    "nfc": nfc,
    "ligatures": expand_ligatures,
    "boilerplate": drop_boilerplate,
    "repeated-lines": drop_repeated_lines,
    "c4-lines": c4_lines,
    "emails": mask_emails,
    "addresses": mask_addresses,
    "space": trim_space,
}


def clean(text: str, names: Sequence[str]) -> str:
    """`text` through the cleaners of these names, in the order given.

    Raises:
        ConfigError: there is no cleaner of such a name.
    """
    for name in names:
        if name not in CLEANERS:
            raise ConfigError(f"there is no cleaner {name!r}; there are: {', '.join(CLEANERS)}")
        text = CLEANERS[name](text)
    return text
