"""The first mark of a text, and the end of a text that may begin one."""

from coterie.text.marks import first_mark, num_held


def test_the_earliest_mark_and_of_several_there_the_longest():
    assert first_mark("a <b> c", ("<", "<b>", "c")) == (2, "<b>")
    assert first_mark("nothing", ("<", "<b>")) == (-1, "")


def test_what_may_begin_a_mark_is_counted():
    for text, held in (("a <", 1), ("a <b", 2), ("a <b>", 0), ("<", 1), ("", 0), ("a <c", 0)):
        assert num_held(text, ("<b>",)) == held
    assert num_held("text", ()) == 0
