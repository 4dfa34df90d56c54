"""A small dict is like a dict."""

from __future__ import annotations

import gc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trunkline.few import Few

STEPS = st.lists(st.tuples(st.sampled_from(["set", "set", "pop", "clear"]), st.integers(0, 3), st.integers(0, 9)))


@settings(deadline=None)
@given(STEPS)
def test_it_does_what_a_dict_does(steps: list[tuple[str, int, int]]) -> None:
    few: Few[int, int] = Few()
    model: dict[int, int] = {}
    for step, key, value in steps:
        if step == "set":
            few[key] = model[key] = value
        elif step == "pop":
            assert few.pop(key) == model.pop(key, None)
        else:
            few.clear()
            model.clear()
        assert list(few) == list(model)
        assert list(few.items()) == list(model.items())
        assert len(few) == len(model)
        assert bool(few) == bool(model)
        assert [key in few for key in range(4)] == [key in model for key in range(4)]
        assert [few[key] for key in few] == [*model.values()]


def test_it_is_small_again_with_one_entry_left() -> None:
    few: Few[str, int] = Few()
    few["a"], few["b"] = 1, 2
    few.pop("a")
    assert not any(isinstance(part, dict) for part in gc.get_referents(few))
    assert list(few.items()) == [("b", 2)]


def test_what_it_lacks_is_a_key_error() -> None:
    few: Few[str, int] = Few()
    with pytest.raises(KeyError):
        few["a"]
    few["a"] = 1
    with pytest.raises(KeyError):
        few["b"]
    assert few.pop("b", 7) == 7
