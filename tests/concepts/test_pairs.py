import pytest
from hypothesis import given
from hypothesis import strategies as st

from transporter_pl.concepts.pairs import Contrast, Pair, context_of, pairs_of
from transporter_pl.errors import TransporterError


class Tokenizer:
    """Sub-words by the longest match; only what ``Contrast`` asks of a VLM."""

    pieces = ("a ", "man ", "walk", "ing", "ed", "runs", "run", "fast", " ", "hits", "ball", "the ", "Hits")

    def token_ids(self, text):
        ids = []
        while text:
            piece = max((p for p in self.pieces if text.startswith(p)), key=len, default=None)
            ids.append(self.pieces.index(piece) if piece else len(self.pieces))
            text = text[len(piece or text[0]) :]
        return ids

    def text(self, ids):
        return "".join([*self.pieces, "?"][i] for i in ids)


def test_parse_and_captions():
    pair = Pair.parse("left : right", ("an oval moves {}",))
    assert (pair.negative, pair.positive, pair.name) == ("left", "right", "left:right")
    assert pair.captions("it goes {} now") == ("it goes left now", "it goes right now")


@pytest.mark.parametrize("text", ["left", "left:", ":right", "a:b:c", ""])
def test_parse_refuses(text):
    with pytest.raises(TransporterError, match="left:right"):
        Pair.parse(text)


@pytest.mark.parametrize(
    ("text", "words", "context"),
    [
        ("a player {hits|misses} the ball", ("hits", "misses"), "a player {} the ball"),
        ("{ top left | right }", ("top left", "right"), "{}"),
        ("at 3:15 {it rains|the sun shines}.", ("it rains", "the sun shines"), "at 3:15 {}."),
    ],
)
def test_parse_a_template(text, words, context):
    assert Pair.parse(text) == Pair(*words, (context,))
    assert Pair.parse(text, ("and {} again",)) == Pair(*words, (context, "and {} again"))
    assert Pair.parse(text).captions(context)[0] == context.replace("{}", words[0])


@pytest.mark.parametrize(
    "text",
    ["a {hits} b", "a {} b", "{a|b|c}", "{a|b} {c|d}", "{a|b} {}", "{{a|b}}", "a {b|c", "a b|c}", "left:{right}"],
)
def test_parse_refuses_a_template(text):
    with pytest.raises(TransporterError, match=r"has not one slot with two words; write it as in: .* \{left\|right\}$"):
        Pair.parse(text)


def test_a_template_that_lacks_a_word():
    with pytest.raises(TransporterError, match="':misses' lacks a word"):
        Pair.parse("a player {|misses} the ball")


def test_pairs_of_anything_that_is_one():
    given = [
        "a player {hits|misses} the ball",
        Pair("left", "right", ("moves {}",)),
        {"negative": "hits", "positive": "misses", "contexts": ["a boy {} a nail", "a player {} the ball"]},
        "left:right",
        "right:left",
    ]
    assert pairs_of(given) == [
        Pair("hits", "misses", ("a player {} the ball", "a boy {} a nail")),
        Pair("left", "right", ("moves {}",)),
        Pair("right", "left"),
    ]
    assert pairs_of([]) == []


def test_pairs_of_tells_words_apart_that_make_one_name():
    assert len(pairs_of([Pair("a:b", "c"), Pair("a", "b:c")])) == 2


@pytest.mark.parametrize("item", [{"negative": "left"}, {"negative": 1, "positive": 2}, {"words": "left:right"}, 5])
def test_pairs_of_refuses(item):
    with pytest.raises(
        TransporterError, match=r"^pairs: .* is no pair; write left:right, a template such as .*contexts$"
    ):
        pairs_of([item])


@given(st.sampled_from(["left", "top left", "c++", "(x)"]), st.text("abc: ", max_size=5), st.text("abc. ", max_size=5))
def test_a_template_is_its_pair_and_context(word, before, after):
    pair = Pair.parse(f"{before}{{{word}|other}}{after}")
    assert pairs_of([pair, pair.name]) == [Pair(word, "other", (f"{before}{{}}{after}",))]


def test_a_pair_that_differs_in_nothing():
    with pytest.raises(TransporterError, match="'left:left' differs in nothing"):
        Pair("left", "left")


@pytest.mark.parametrize("context", ["no slot", "{} and {}"])
def test_slots(context):
    with pytest.raises(TransporterError, match=r"slots; write \{\} once"):
        Pair("left", "right", (context,))


def test_context_of_a_caption():
    pair = Pair("left", "right")
    assert pair.context("moves left, slowly") == "moves {}, slowly"
    assert pair.context("moves {} slowly") == "moves {} slowly"
    # whole words only
    assert context_of("a reddish red oval", "red") == "a reddish {} oval"
    with pytest.raises(TransporterError, match="does not hold the word 'left'"):
        pair.context("moves right")
    with pytest.raises(TransporterError, match="holds 'left' 2 times"):
        pair.context("left and left")


@given(st.sampled_from(["left", "top left", "c++", "(x)"]), st.text("abc ", max_size=5), st.text("abc ", max_size=5))
def test_context_inverts_captions(word, before, after):
    pair = Pair(word, "other", (f"{before} {{}} {after}",))
    caption, _ = pair.captions(pair.contexts[0])
    assert pair.context(caption) == pair.contexts[0]


def test_contrast_is_the_first_sub_token_that_differs():
    tokenizer = Tokenizer()
    contrast = Contrast.of(tokenizer, Pair("walking", "walked"), "a man {} fast")
    assert contrast.prefix == "a man walk"
    assert tokenizer.text([contrast.negative]) == "ing"
    assert tokenizer.text([contrast.positive]) == "ed"
    assert Contrast.of(tokenizer, Pair("walking", "runs"), "{} fast").prefix == ""


@pytest.mark.parametrize(
    ("negative", "positive", "context", "message"),
    [
        ("walking", "zebra", "a man {}", "does not know 'zebra'"),
        ("run", "run fast", "a man {}", "sees no contrast between 'run' and 'run fast'"),
    ],
)
def test_contrast_refuses(negative, positive, context, message):
    with pytest.raises(TransporterError, match=message):
        Contrast.of(Tokenizer(), Pair(negative, positive), context)


def test_words_with_the_same_ids_are_no_contrast():
    class Lower(Tokenizer):
        def token_ids(self, text):
            return super().token_ids(text.lower())

    with pytest.raises(TransporterError, match="sees no contrast between 'hits' and 'Hits'"):
        Contrast.of(Lower(), Pair("hits", "Hits"), "a man {} the ball")
