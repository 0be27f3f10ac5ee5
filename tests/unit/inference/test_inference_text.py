"""Stop strings and growing text."""

import pytest
from support.inference.inference_support import EOS, tokenizer

from arlarena.inference.api.errors import RequestError
from arlarena.inference.embedded.text.codec import GrowingText, TextCodec, cut


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    directory = tmp_path_factory.mktemp("tokenizer")
    tokenizer().save_pretrained(directory)
    return TextCodec.load(directory)


class Bytes:
    """A tokenizer whose tokens are bytes, so that characters span several tokens."""

    def decode(self, ids, skip_special_tokens):
        return bytes(ids).decode(errors="replace")


def grow(text, tokens, stops=(), stop=None, **options):
    growing = GrowingText(text, stops, **{"skip_special": True, "include_stop": False, **options})
    pieces = [growing.advance(tokens[:n], finished=False, stop=None) for n in range(1, len(tokens))]
    return [*pieces, growing.advance(tokens, finished=True, stop=stop)]


def test_a_stop_check_fires_on_the_token_that_completes_the_string(text):
    check = text.stop_check(("ab.", "zz"), skip_special=True)
    ids = text.encode("xxab.", special=False)
    assert [check(ids[:n]) for n in range(1, 6)] == [None, None, None, None, "ab."]
    assert text.stop_check((), skip_special=True) is None


def test_the_earliest_stop_string_in_the_text_is_reported(text):
    check = text.stop_check(("b", "ab"), skip_special=True)
    assert check(text.encode("xab", special=False)) == "ab"


def test_a_stop_string_is_cut_off_unless_included():
    assert cut("one.two.", ".", include=False) == "one"
    assert cut("one.two.", ".", include=True) == "one."
    assert cut("one", None, include=False) == cut("one", "x", include=False) == "one"


@pytest.mark.parametrize(("include", "rest"), [(False, ""), (True, "..")])
def test_a_complete_stop_string_is_sent_only_when_the_response_is_finished(text, include, rest):
    ids = text.encode("ab..", special=False)
    growing = GrowingText(text, ("..",), skip_special=True, include_stop=include)
    assert growing.advance(ids, finished=False, stop=None) == "ab"
    assert growing.advance(ids, finished=True, stop="..") == rest


def test_pieces_of_growing_text_join_to_the_text(text):
    ids = text.encode("hello 1 2.", special=False)
    pieces = grow(text, [*ids, EOS])
    assert "".join(pieces) == "hello 1 2."
    assert pieces[:3] == ["h", "e", "l"]


def test_an_incomplete_character_is_held_back():
    tokens = list("aé√b".encode())
    pieces = grow(TextCodec(Bytes()), tokens)
    assert "".join(pieces) == "aé√b"
    assert pieces == ["a", "", "é", "", "", "√", "b"]


def test_a_possible_start_of_a_stop_string_is_held_back(text):
    ids = text.encode("a.b.cd", special=False)
    pieces = grow(text, ids, stops=(".cd",), stop=".cd")
    assert pieces == ["a", "", ".b", "", "", ""]
    assert "".join(grow(text, ids, stops=(".cx",))) == "a.b.cd"
    assert "".join(grow(text, ids, stops=(".cd",), stop=".cd", include_stop=True)) == "a.b.cd"


def test_text_and_ids_are_those_of_transformers(text):
    reference = tokenizer()
    for sample in ("hello 1 2.", "é\n", "<user>ab<assistant>c<end>", "UNKNOWN", ""):
        ids = text.encode(sample)
        assert ids == reference.encode(sample)
        for skip in (True, False):
            assert text.decode(ids, skip_special=skip) == reference.decode(ids, skip_special_tokens=skip)
    assert text.eos_id() == EOS


def test_without_a_tokenizer_the_error_names_the_token_route():
    bare = TextCodec(None)
    assert not bare.present
    with pytest.raises(RequestError, match="/inference/v1/generate"):
        bare.encode("x")


def test_an_error_raised_by_a_template_is_reported(text, tmp_path):
    strict = tokenizer()
    strict.chat_template = "{{ raise_exception('roles must alternate') }}"
    strict.save_pretrained(tmp_path)
    with pytest.raises(RequestError, match="roles must alternate"):
        TextCodec.load(tmp_path).render([{"role": "user", "content": "x"}])
    rendered = text.render([{"role": "user", "content": "ab"}], add_generation_prompt=True)
    assert text.encode(rendered, special=False) == [3, 5, 6, 4]
