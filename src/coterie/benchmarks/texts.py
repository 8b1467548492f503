"""Lists, strings, and words of several languages: copying, sorting, counting, picking."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from coterie.benchmarks.generated import AnswerBenchmark, Cell, Draft
from coterie.benchmarks.item import BenchmarkItem
from coterie.primer.base import Rng
from coterie.primer.words import WORDS

_Words = Sequence[str]
_OPERATIONS: dict[str, tuple[str, Callable[[_Words], str]]] = {
    "copy": ("Copy these words in the same order", lambda w: " ".join(w)),
    "reverse": ("Write these words in reverse order", lambda w: " ".join(w[::-1])),
    "sort": ("Sort these words by the alphabet", lambda w: " ".join(sorted(w))),
    "second": ("Give every second of these words, beginning with the second", lambda w: " ".join(w[1::2])),
    "last": ("Give the last of these words", lambda w: w[-1]),
    "longest": ("Give the longest of these words", lambda w: max(w, key=len)),
    "initials": ("Write the first letters of these words as one word", lambda w: "".join(x[0] for x in w)),
    "swap": ("Exchange the first and the last of these words", lambda w: " ".join([w[-1], *w[1:-1], w[0]])),
    "count": ("How many letters do these words have together", lambda w: str(sum(map(len, w)))),
    "letter": ("How many of these words hold the letter e", lambda w: str(sum("e" in x for x in w))),
    "upper": ("Write these words in capital letters", lambda w: " ".join(w).upper()),
    "spell": ("Spell the first of these words backwards", lambda w: w[0][::-1]),
}
_SIZES = (3, 5, 8, 12)

# Ten words each, in the order of their code points: for copying and sorting in other scripts.
_LANGUAGES: dict[str, str] = {
    "German": "Apfel Brot Fenster Garten Haus Katze Milch Sonne Tisch Wasser",
    "French": "arbre chat fleur jardin lune maison neige pain rue table",
    "Spanish": "agua casa gato libro luna mesa noche pan sol verde",
    "Turkish": "ağaç deniz ekmek gece kapı kitap masa su yol zaman",
    "Polish": "chleb dom drzewo kot las mleko noc okno rzeka woda",
    "Greek": "γάλα γάτα δέντρο θάλασσα μήλο νερό νύχτα σπίτι ψωμί ήλιος",
    "Russian": "вода дерево дом кот молоко море ночь окно снег хлеб",
    "Ukrainian": "вікно вода дерево кіт молоко море ніч сніг сонце хліб",
    "Arabic": "باب بحر بيت خبز شجرة شمس قط كتاب ليل ماء",
    "Hebrew": "בית חלב חלון ים לחם לילה מים עץ שמש שלג",
    "Hindi": "कमल किताब घर जल दूध नदी पेड़ रात सड़क सूरज",
    "Thai": "กลางคืน ขนมปัง ต้นไม้ ทะเล น้ำ นม บ้าน แมว หนังสือ หิมะ",
    "Chinese": "书 夜 家 月 树 水 海 牛奶 猫 雪",
    "Japanese": "いえ うみ き つき ねこ パン ほん みず ゆき よる",
    "Korean": "고양이 나무 눈 달 물 바다 밤 빵 우유 책",
}


class Texts(AnswerBenchmark):
    """Operations on short lists of words; the answer has to be exact."""

    name = "lists"
    says = "copying, sorting, counting and picking in lists of 3 to 12 words"

    def cells(self) -> Sequence[Cell]:
        """Operations by the number of words."""
        return [Cell(f"{name} {size}", f"{size} words", size) for size in _SIZES for name in _OPERATIONS]

    def draw(self, rng: Rng, cell: Cell) -> Draft:
        """Different words; the longest is longer than all others."""
        says, operation = _OPERATIONS[cell.template.split()[0]]
        words = rng.sample(WORDS, cell.size)
        longest = max(map(len, words))
        if cell.template.startswith("longest") and sum(len(word) == longest for word in words) > 1:
            return self.draw(rng, cell)
        return Draft(f"{says}: {' '.join(words)}", operation(words))

    def equal(self, item: BenchmarkItem, found: str) -> bool:
        """The same words; how many spaces stand between them does not count."""
        return found.split() == item.answer.split()

    def candidates(self, item: BenchmarkItem) -> Sequence[str]:
        """The words as they stand, sorted, and the other way round."""
        words = item.question.partition(": ")[2].split("\n")[0].split()
        made = (" ".join(words), " ".join(sorted(words)), " ".join(words[::-1]), words[-1])
        return [one for one in made if one != item.answer]


class Multilingual(AnswerBenchmark):
    """Copying, reversing and sorting words of 15 languages; whether a script survives its way through."""

    name = "multilingual"
    says = "copying, reversing and sorting words of 15 languages"

    def cells(self) -> Sequence[Cell]:
        """Operations by language."""
        return [
            Cell(f"{operation} {language}", language)
            for operation in ("copy", "reverse", "last")
            for language in _LANGUAGES
        ] + [Cell(f"sort {language}", language) for language in ("German", "French", "Spanish", "Russian")]

    def draw(self, rng: Rng, cell: Cell) -> Draft:
        """Five words of the language."""
        operation, language = cell.template.split()
        words = rng.sample(_LANGUAGES[language].split(), 5)
        says, apply = _OPERATIONS[operation]
        in_language = says.replace("these words", f"these {language} words")
        right = apply(words) if operation != "sort" else " ".join(sorted(words, key=str.casefold))
        return Draft(f"{in_language}: {' '.join(words)}", right)

    def equal(self, item: BenchmarkItem, found: str) -> bool:
        """The same words."""
        return found.split() == item.answer.split()
