"""The arrays of all items: parts, boundaries, template."""

from __future__ import annotations

import numpy as np

from coterie.contamination.item_units import ItemUnits
from coterie.contamination.items import QueriedItem


def test_the_boundary_holds_the_grams_of_question_and_answer():
    item = QueriedItem("a", "a b c d e f g h i j", ("x y",))
    units = ItemUnits.of([item], 5, 0.05)
    both = next(part for part in units.items[0] if part.role == "both")
    assert both.last - both.first == 12
    where = np.arange(len(units.grams))[both.boundary]
    # Grams of 8 that hold the tenth and the eleventh unit, and end within the text.
    assert (where[units.valid[where]] - both.first).tolist() == [3, 4]


def test_items_of_one_passage_do_not_make_it_template():
    passage = " ".join(f"word{at}" for at in range(30))
    asked = [QueriedItem(str(at), f"why {at}", ("x",), (), passage) for at in range(20)]
    assert not ItemUnits.of(asked, 5, 0.05).template.any()
    shared = [QueriedItem(str(at), f"{passage} why {at}", ("x",)) for at in range(20)]
    units = ItemUnits.of(shared, 5, 0.05)
    for part in (one for own in units.items for one in own if one.role == "question"):
        assert units.template[part.first : part.first + 23].all()


def test_no_items_are_no_units():
    assert len(ItemUnits.of([], 5, 0.05).grams) == 0


def test_answers_that_the_passage_quotes_are_not_looked_up():
    item = QueriedItem("a", "why", ("two three", "nine"), (), "one two three four")
    roles = [part.role for part in ItemUnits.of([item], 5, 0.05).items[0]]
    assert roles.count("answer") == 1
