"""Which language a text is in, as far as its script and its most common words show."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter

# Script, as Unicode's names of letters begin -> the languages here that are written in it.
_SCRIPTS: dict[str, tuple[str, ...]] = {
    "DEVANAGARI": ("hi", "mr", "ne"),
    "BENGALI": ("bn",),
    "GURMUKHI": ("pa",),
    "GUJARATI": ("gu",),
    "TAMIL": ("ta",),
    "TELUGU": ("te",),
    "KANNADA": ("kn",),
    "MALAYALAM": ("ml",),
    "THAI": ("th",),
    "HANGUL": ("ko",),
    "HIRAGANA": ("ja",),
    "KATAKANA": ("ja",),
    "CJK": ("zh", "ja"),
    "ARABIC": ("ar", "fa", "ur"),
    "HEBREW": ("he",),
    "GREEK": ("el",),
    "CYRILLIC": ("ru", "bg", "uk"),
    "LATIN": (),
}
# Frequent short words that tell the languages of one script apart.
_COMMON: dict[str, str] = {
    "en": "the of and to in is that it was for on are with as at be this have from not you i a",
    "de": "der die das und ist nicht ein eine zu den von mit auf für im dem sich des auch wir ich es",
    "fr": "le la les et est une un des que dans pour pas sur au avec ce il elle nous vous du je",
    "es": "el la los las y es una un que de en por para con no se su al lo como más del yo",
    "pt": "o a os as e é um uma que de em por para com não se do da no na mais eu",
    "it": "il lo la gli le e è un una che di in per con non si del della nel più sono io",
    "nl": "de het een en is van dat niet op te in zijn met voor aan er maar om ik",
    "sv": "och att det är en som på för med av inte den till har jag ett om",
    "fi": "ja on ei se että oli hän mutta kun niin joka tai myös ovat minä",
    "pl": "i w nie na się że z jest do to jak ale od po za co są ja",
    "tr": "ve bir bu için ile de da çok ne ama daha en olan ben",
    "sw": "na ya wa ni kwa katika la za kuwa hii yake cha hiyo mimi",
    "vi": "và là của có không được cho một những với các trong người này tôi",
    "hi": "है और का की के में को से नहीं यह हैं पर एक",
    "mr": "आहे आणि ची चा चे मध्ये ला हे नाही एक आहेत",
    "ne": "छ र को मा छन् हो यो लाई गर्न एक पनि",
    "ru": "и в не на что он с как это по но из у за я мы",
    "bg": "и в не на че да се от за с е са по това аз",
    "uk": "і в не на що він з як це та але до у за я є",
    "ar": "في من على إلى أن هذا التي ما لا كان مع",
    "fa": "و در به از که این است را با برای می",
    "ur": "اور کے کی میں ہے سے کا کو نہیں یہ ہیں",
}
_ENOUGH = 0.7  # of the letters must be of the language's script


def _script(letter: str) -> str:
    return unicodedata.name(letter, "").split()[0].split("-")[0] if letter else ""


def known_languages() -> list[str]:
    """The codes that `spoken` can tell, sorted."""
    return sorted({code for codes in _SCRIPTS.values() for code in codes} | _COMMON.keys())


def spoken(text: str, code: str) -> bool:
    """Whether a text is in the language of an ISO 639-1 code; a text without a letter counts as every one.

    Languages that share a script are told apart by common words; where none of them occurs, the script alone
    decides. Unknown codes are never spoken.
    """
    code = code.split("-")[0].lower()
    if code not in known_languages():
        return False
    letters = Counter(_script(letter) for letter in text[:5000] if letter.isalpha())
    total = sum(letters.values())
    if not total:
        return True
    scripts = [name for name, codes in _SCRIPTS.items() if code in codes] or ["LATIN"]
    if sum(letters[name] for name in scripts) < _ENOUGH * total:
        return False
    if code in ("zh", "ja"):
        return bool(letters["HIRAGANA"] + letters["KATAKANA"]) == (code == "ja")
    rivals = [other for other in _COMMON if _shares(other, scripts)]
    found = Counter(re.findall(r"[^\W\d_]+(?:[ािीुूेैोौंँ्]+[^\W\d_]*)*", text[:20_000].lower()))
    scores = {other: sum(found[word] for word in _COMMON[other].split()) for other in rivals}
    return code not in scores or scores[code] == max(scores.values())


def _shares(code: str, scripts: list[str]) -> bool:
    own = [name for name, codes in _SCRIPTS.items() if code in codes] or ["LATIN"]
    return bool(set(own) & set(scripts))
