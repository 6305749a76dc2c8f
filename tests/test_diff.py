"""Two texts side by side."""

import re
from html import unescape

from hypothesis import given
from hypothesis import strategies as st

from gyrostat._diff import marked

TEXT = st.text(st.sampled_from('ab <>&"\n.é'), max_size=30)


def test_what_is_not_in_both_is_marked():
    left, right = marked("a quick <brown> fox", "a slow <brown> fox!")
    assert left == "a <del>quick</del> &lt;brown&gt; fox"
    assert right == "a <ins>slow</ins> &lt;brown&gt; fox<ins>!</ins>"


@given(TEXT, TEXT)
def test_nothing_is_lost_and_what_is_unmarked_is_common(a, b):
    left, right = marked(a, b)
    assert unescape(re.sub("</?(del|ins)>", "", left)) == a
    assert unescape(re.sub("</?(del|ins)>", "", right)) == b
    common = [re.sub("<(del|ins)>.*?</\\1>", "", side, flags=re.DOTALL) for side in (left, right)]
    assert common[0] == common[1]
