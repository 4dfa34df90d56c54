"""Patterns for names of topics, compared with the standard library's, and some that it has no time for."""

from __future__ import annotations

import fnmatch
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trunkline.groups.patterns import compile_pattern

ATOMS = [*"ab.-", r"\.", r"\d", r"\w", r"\S", "[ab]", "[^a]", "[a-c0-9_]", "(?i:B)", "(?i:[^a])", "(?i:[A-C])"]
patterns = st.recursive(
    st.sampled_from(ATOMS),
    lambda inner: st.one_of(
        st.tuples(inner, inner).map("".join),
        st.tuples(inner, inner).map(lambda two: f"(?:{two[0]}|{two[1]})"),
        st.tuples(inner, st.sampled_from(["*", "+?", "?", "{2}", "{1,3}", "{2,}", "{0}"])).map(
            lambda one: f"({one[0]}){one[1]}"
        ),
    ),
    max_leaves=8,
)


@given(patterns, st.lists(st.text("abcAB.-_01", max_size=6), max_size=10))
def test_the_same_names_match_as_with_the_standard_library(pattern: str, names: list[str]) -> None:
    mine, theirs = compile_pattern(pattern), re.compile(pattern)
    assert [mine.matches(name) for name in names] == [theirs.fullmatch(name) is not None for name in names]


@pytest.mark.parametrize("pattern", ["", "^a.*$", "^a|b$", "(^a|^b)c", r"\Aa\Z", "(?i)AB", "(?x) a  b "])
def test_ends_and_flags(pattern: str) -> None:
    for name in ("", "a", "b", "ab", "AB", "ac", "bc", "xb"):
        assert compile_pattern(pattern).matches(name) == (re.fullmatch(pattern, name) is not None)


def test_wildcards_as_the_library_translates_them() -> None:
    pattern = compile_pattern(fnmatch.translate("orders.*.[ab]?*"))
    assert pattern.matches("orders.eu.west.a1")
    assert not pattern.matches("orders.eu.c1")


@pytest.mark.parametrize("pattern", ["(t|t)*b", "(t+)+b", "t*" * 20 + "b", "(((t*)*)*)*b", "(t{1,30}){1,30}b"])
def test_no_pattern_takes_for_ever(pattern: str) -> None:
    found = compile_pattern(pattern)
    assert not found.matches("t" * 249)
    assert found.matches("t" * 30 + "b")


@pytest.mark.parametrize(
    "pattern",
    ["(", "x" * 1001, r"(a)\1", "(?!x)a", "(?<=a)b", r"a\b", "a^b", "(a$)*", "((x{99}){99}){99}",
     "((((){999}){999}){999}){999}"],
)  # fmt: skip
def test_what_cannot_be_matched_is_refused(pattern: str) -> None:
    with pytest.raises(re.error):
        compile_pattern(pattern)
