import numpy as np
import pytest
from designs import complete, with_holes
from hypothesis import given

from compgan_core.data.labels import ATTRIBUTES, Labels, check_trainable, choose_expressions
from compgan_core.errors import ConfigurationError, DataError


def test_vocabularies_are_sorted_and_a_missing_name_is_minus_one():
    labels = Labels.from_names(["b", "", "a"], ["left"] * 3, ["sad", "joy", ""], [""] * 3, [0] * 3, ["1", "2", "3"])
    assert labels.identities == ("a", "b") and labels.identity.tolist() == [1, -1, 0]
    assert labels.named("expression") == ["sad", "joy", ""]


def test_take_keeps_the_vocabulary_and_compact_drops_what_does_not_occur():
    labels = complete(3, 2, 4)
    taken = labels.take(labels.rows_with("expression", ["e01", "e03"]))
    assert taken.expressions == labels.expressions
    assert taken.compact().expressions == ("e01", "e03")
    assert taken.compact().named("expression") == taken.named("expression")


def test_recode_changes_numbers_but_not_names():
    labels, part = complete(3, 2, 4), complete(2, 2, 4).take(np.array([5, 2])).compact()
    recoded = part.recode(labels)
    assert recoded.expressions == labels.expressions
    assert all(recoded.named(a) == part.named(a) for a in ATTRIBUTES)
    with pytest.raises(DataError, match="'i001' does not occur in the data"):
        labels.recode(part)


@given(with_holes())
def test_cells_are_the_rows_with_all_labels_grouped(labels):
    cells = labels.cells()
    for (i, p, e), rows in cells.items():
        assert set(zip(labels.identity[rows], labels.pose[rows], labels.expression[rows], strict=True)) == {(i, p, e)}
    assert sorted(np.concatenate([*cells.values(), []])) == np.flatnonzero(labels.identity >= 0).tolist()


def test_expressions_are_drawn_by_seed_and_never_more_than_there_are():
    names = complete(2, 2, 30).expressions
    assert choose_expressions(names, 16, 1) == choose_expressions(names, 16, 1) != choose_expressions(names, 16, 2)
    assert len(set(choose_expressions(names, 16, 1))) == 16
    assert choose_expressions(names, 0, 1) == choose_expressions(names, 31, 1) == names


@pytest.mark.parametrize(
    ("size", "sentence"),
    [
        ((3, 1, 3), "two poses, and the data has only 'bird'"),
        ((3, 3, 1), "two expressions, and the data has only 'e00'"),
        ((1, 3, 3), "two identities, and the data has only 'i000'"),
    ],
)
def test_data_that_cannot_train_is_refused_in_a_sentence(size, sentence):
    with pytest.raises(DataError, match=sentence):
        check_trainable(complete(*size))


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(ConfigurationError, match=r"pose 'half_lefft': did you mean half_left"):
        complete(2, 4, 2).rows_with("pose", ["half_lefft"])
