from urllib.parse import quote

from hypothesis import example, given
from hypothesis import strategies as st

from skysail_common.errors import SkysailError
from skysail_common.rpc.statuses import text_of

PLAIN = "".join(map(chr, range(0x20, 0x7F))).replace("%", "")
TEXTS = st.text(max_size=700) | st.builds(
    lambda text, times: text * times, st.text(max_size=20), st.integers(1, 2000)
)


@given(TEXTS)
@example("x" * 5000)
@example("x" * 5001)
@example("日" * 555)
@example("日" * 556)
@example("\ud800" * 3000)
def test_a_text_is_cut_only_if_it_exceeds_the_metadata(text):
    def encoded(text: str) -> int:
        return len(quote(text, safe=PLAIN))

    shown = text_of(SkysailError(text))
    text = text.encode(errors="replace").decode()
    if encoded(text) <= 5000:
        assert shown == text
    else:
        assert encoded(shown) <= 5000 + len(" %E2%80%A6")
        beginning = shown.removesuffix(" …")
        assert text.startswith(beginning)
        assert encoded(text[: len(beginning) + 1]) > 5000
