"""Books without their licence, cut into stories; the shared books are the examples, their contents lists the judges."""

from __future__ import annotations

import functools
import http.server
import re
import threading

import pytest

from tinygpt.text.corpus import read_documents
from tinygpt.text.gutenberg import clean_book, download_books, read_book, split_stories, write_corpus

FILES = {
    2591: "grimms-fairy-tales_2591-0.txt",
    1597: "andersens-fairy-tales_1597-0.txt",
    11339: "aesops-fables_11339.txt",
}
PROSE = "There was a fox who went out one night and did not come home before the sun was up and all the hens awake.\n"


def listed(raw: str, first: str, last: str) -> list[str]:
    """The lines of a book's own list of contents, from the line after `first` to the one before `last`."""
    lines = [line.strip() for line in raw.split("\n")]
    begin = lines.index(first) + 1
    return [line for line in lines[begin : lines.index(last, begin)] if line]


def expected_titles(number: int, raw: str) -> list[str]:
    if number == 2591:
        titles = listed(raw, "CONTENTS:", "THE BROTHERS GRIMM FAIRY TALES")
        # parts of two tales, and a line that the volunteers left in by mistake
        parts = re.compile(r"\d\. .*|FIRST STORY|SECOND STORY|the juniper-tree\.")
        return [title for title in titles if not parts.fullmatch(title)]
    if number == 1597:
        return [title.upper() for title in listed(raw, "CONTENTS", "THE EMPEROR'S NEW CLOTHES")]
    return listed(raw, "CONTENTS", "LIST OF ILLUSTRATIONS")


@pytest.fixture(scope="module")
def books(shared_data, tmp_path_factory):
    """The shared books after a journey over HTTP: number -> (bytes as served, path in the cache)."""
    root = tmp_path_factory.mktemp("mirror")
    served = {}
    for number, name in FILES.items():
        served[number] = (shared_data / "gutenberg" / name).read_bytes()
        place = root / "files" / str(number) / (f"{number}.txt" if number == 11339 else f"{number}-0.txt")
        place.parent.mkdir(parents=True)
        place.write_bytes(served[number])

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(root))) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("no_proxy", "127.0.0.1")
            url = f"http://127.0.0.1:{server.server_port}"
            paths = download_books(FILES, root / "cache", base_url=url, delay=0, progress=False)
        server.shutdown()
    return {number: (served[number], path) for number, path in zip(FILES, paths, strict=True)}


# The shared books


@pytest.mark.parametrize(("number", "count"), [(2591, 62), (1597, 18), (11339, 284)])
def test_a_real_book_falls_into_the_stories_of_its_contents_list(books, number, count):
    raw, path = books[number]
    stories = split_stories(read_book(path))
    assert len(stories) == count
    assert [story.split("\n")[0] for story in stories] == expected_titles(number, raw.decode("utf-8-sig"))


@pytest.mark.parametrize("number", FILES)
def test_real_stories_hold_nothing_but_the_story(books, number):
    raw, path = books[number]
    text = read_book(path)
    assert text == clean_book(raw)
    for document in [text, *split_stories(text)]:
        assert not re.search(r"gutenberg|^produced by|\ufeff|\r|https?:|\[illustration", document, re.I | re.M)
        assert document == document.strip("\n") + "\n"


@pytest.mark.parametrize(
    ("number", "title", "ending"),
    [
        (2591, "THE ADVENTURES OF CHANTICLEER AND PARTLET", "till at last he\ndied too; and so all were dead."),
        (2591, "THE WEDDING OF MRS FOX", "if they have not left off, they are dancing\nstill."),
        (1597, "THE SHOES OF FORTUNE", "She has no doubt taken them for herself, to keep them to all\neternity."),
        (1597, "THE SNOW QUEEN", "and it was summer-time; summer, glorious summer!"),
        (1597, "THE RED SHOES", "there\nno one asked after the RED SHOES."),
        (11339, "THE FOX AND THE GRAPES", 'but I see now they are quite sour."'),
        (11339, "THE GOOSE THAT LAID THE GOLDEN EGGS", "    Much wants more and loses all."),
        (11339, "THE TRAVELLER AND FORTUNE", 'not on your own folly but on me, Fortune."'),
    ],
)
def test_parts_verses_and_morals_stay_with_their_story(books, number, title, ending):
    [story] = [s for s in split_stories(read_book(books[number][1])) if s.startswith(title + "\n")]
    assert story.endswith(ending + "\n")


def test_the_corpus_file_gives_back_every_story(books, tmp_path):
    stories = [story for _, path in books.values() for story in split_stories(read_book(path))]
    write_corpus(tmp_path / "corpus.txt", stories)
    assert len(stories) == 62 + 18 + 284
    assert read_documents(tmp_path / "corpus.txt") == stories


# Cleaning


def wrapped(book: str, the: str = "THE", title: str = "TALES ***", end: str = "") -> bytes:
    """A book as Project Gutenberg wraps it up."""
    text = (
        f"\ufeffThe Project Gutenberg EBook of Tales\n\nLicence.\n\n*** START OF {the} PROJECT GUTENBERG EBOOK {title}"
        f"\n\n{book}\n\n{end}\n\n*** END OF {the} PROJECT GUTENBERG EBOOK {title}\n\n"
        "*** START: FULL LICENSE ***\n\nMore licence.\n"
    )
    return text.replace("\n", "\r\n").encode()


@pytest.mark.parametrize("the", ["THE", "THIS"])
@pytest.mark.parametrize("title", ["TALES ***", "A VERY LONG\nTITLE ***", "TALES***", ""])
@pytest.mark.parametrize(
    "credit",
    ["", "Produced by A. B.\nand the Team.\n\n\n", "E-text prepared by A\n\n", "Produced by A\n\nTranscribed from B\n"],
)
@pytest.mark.parametrize(
    "end", ["", "End of Project Gutenberg's Tales, by X", "End of the Project Gutenberg EBook of Tales,\nby X"]
)
def test_both_wordings_of_the_licence_come_off(the, title, credit, end):
    book = "Tales  \n\n\nThe hens were produced by eggs.\n\n    And so on.\n"
    raw = wrapped(f"\n\n{credit}\n{book}", the, title, end)
    assert clean_book(raw) == "Tales\n\n\nThe hens were produced by eggs.\n\n    And so on.\n"


def test_older_spelling_of_the_markers_and_old_encodings_are_understood():
    raw = (
        wrapped("Character set encoding: ISO-8859-1\n\nUne fée").removeprefix(b"\xef\xbb\xbf").replace(b"*** ", b"***")
    )
    raw = raw.decode("utf-8").encode("latin-1")
    assert clean_book(raw).endswith("Une fée\n")


def test_marks_of_pictures_come_off_and_leave_no_gap():
    first = "One.\n\n[Illustration]\n\nTwo.\n\n\n\n\n"
    book = first + "[Illustration: A FOX\nand a crow]\n\nTHE FOX\n\n[Note] Three.\n\n[Illustration]"
    assert clean_book(wrapped(book)) == "One.\n\nTwo.\n\n\n\n\nTHE FOX\n\n[Note] Three.\n"


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"Just a tale.\n", r"must have a line '\*\*\* START OF THE PROJECT GUTENBERG EBOOK', got none; give a"),
        (
            wrapped("Tale").split(b"*** END")[0],
            r"must have a line '\*\*\* END OF .*', got none; give a whole book",
        ),
        (wrapped("Tale").replace(b"*** START OF", b"*** END OF"), r"must have a line '\*\*\* START OF"),
        (wrapped(" \n\n"), "must have text between its START and END lines, got none"),
        (b"", "must hold text, is empty"),
        (b"caf\xe9", "must be UTF-8 text, got byte 0xe9 at offset 3"),
    ],
)
def test_what_is_no_whole_book_is_refused_by_name(tmp_path, raw, message):
    (tmp_path / "pg1.txt").write_bytes(raw)
    with pytest.raises(ValueError, match=rf"pg1\.txt: clean_book: {message}") as caught:
        read_book(tmp_path / "pg1.txt")
    assert "\n" not in str(caught.value)


# Splitting


def titles(text: str) -> list[str]:
    return [story.split("\n")[0] for story in split_stories(text)]


def story(title: str, gap: int = 4, below: int = 1) -> str:
    return "\n" * gap + title + "\n" * (1 + below) + PROSE * 3


@pytest.mark.parametrize("gap", [2, 3, 4, 6])
@pytest.mark.parametrize("below", [1, 2, 4])
def test_headings_are_found_whatever_the_book_leaves_blank(gap, below):
    book = "Tales\n\nby X\n" + "".join(
        story(title, gap, below) for title in ("THE FOX", "“OH!” SAID I.", "ÆSOP’S HEN, II")
    )
    assert titles(book) == ["THE FOX", "“OH!” SAID I.", "ÆSOP’S HEN, II"]


def test_front_and_back_matter_is_no_story():
    contents = "\n\n\n\nCONTENTS:\n\n  The Fox and the Very Old Crow\n  The Hen\n"
    matter = "".join(story(title) for title in ("PREFACE", "_INTRODUCTION._"))
    end = story("THE END") + story("TRANSCRIBER’S NOTE")
    book = "TALES\n" + contents + matter + "".join(story(f"TALE {number}") for number in range(6)) + end
    assert titles(book) == [f"TALE {number}" for number in range(6)]


def test_a_list_of_titles_is_no_story_under_whatever_heading():
    titles_only = "\n\n\n\nTALES OF OLD\n\n" + "  The Fox and the Crow\n  The Story of a Hen\n" * 12
    assert titles(titles_only + story("THE FOX") + story("THE HEN") * 3) == ["THE FOX", *["THE HEN"] * 3]


def test_parts_of_a_story_stay_in_it_and_parts_of_a_book_vanish():
    parts = "\n\n\n\n\nTHE HEN\n" + story("FIRST STORY", 2) + story("SECOND STORY", 2) + "\nA HEN'S SONG\n\n" + PROSE
    assert titles(story("THE FOX") + parts + story("THE OWL")) == ["THE FOX", "THE HEN", "THE OWL"]
    tales = [f"TALE {number}" for number in range(12)]
    in_parts = ["\n\n\n\n" + tale + "\n" + "".join(story(f"PART {part}", 2) for part in range(4)) for tale in tales]
    assert titles("".join(in_parts)) == tales
    stories = [story(title, 2) for title in tales]
    book = "\n\n\n\nPART I\n" + "".join(stories[:6]) + "\n\n\n\nPART II\n" + "".join(stories[6:])
    assert titles(book) == tales


def test_a_long_title_may_take_two_lines():
    book = story("THE FOX WHO WENT OUT\nAND DID NOT COME HOME") + story("THE HEN")
    assert split_stories(book)[0].startswith("THE FOX WHO WENT OUT\nAND DID NOT COME HOME\n\nThere was a fox")
    assert len(split_stories(book)) == 2


@pytest.mark.parametrize(
    "book",
    [
        PROSE * 20,
        "THE FOX\n\n" + PROSE * 20,
        "Chapter 1\n\n" + PROSE * 20 + "\n\n\n\nChapter 2\n\n" + PROSE * 20,
        PROSE * 40 + "\n\n\n\nA LETTER\n\n" + PROSE + "\n\n\n\nANOTHER\n\n" + PROSE,  # most would be lost
        "A FOX SPOKE:\n\n" + PROSE + "\nA HEN SPOKE:\n\n" + PROSE,  # one blank line above: no headings
        "\n",
    ],
)
def test_a_book_whose_headings_are_not_understood_is_one_document(book):
    assert split_stories(book) == [book]


# Writing


def test_documents_are_written_whole_with_a_line_between_them(tmp_path):
    write_corpus(tmp_path / "c.txt", ["A fée.\n", "No line end"])
    assert (tmp_path / "c.txt").read_bytes() == "A fée.\n<|endoftext|>\nNo line end\n".encode()
    assert [file.name for file in tmp_path.iterdir()] == ["c.txt"]


@pytest.mark.parametrize(
    ("documents", "message"),
    [([], "needs at least one document, got none"), (["A", "B\n<|endoftext|>\nC"], "document 2 must have no line")],
)
def test_a_corpus_that_would_not_be_read_back_is_not_written(tmp_path, documents, message):
    (tmp_path / "c.txt").write_bytes(b"old")
    with pytest.raises(ValueError, match=f"write_corpus: {message}"):
        write_corpus(tmp_path / "c.txt", documents)
    assert (tmp_path / "c.txt").read_bytes() == b"old"


@pytest.mark.parametrize(
    "middle",
    ["\n" * 300_000, "End of Project Gutenberg\n" * 20_000 + "x\n\nThe end", "Produced by x\n\n" * 60_000,
     "\n \n" * 100_000,
     " " * 300_000 + "End of"],
    ids=["blank lines", "closings", "credits", "spaces", "line"],
)  # fmt: skip
def test_odd_books_take_no_more_time_than_others(middle):
    """Each of these took hours: quadratic or worse. The test ends, or the run of tests does not."""
    marks = [f"*** {side} OF THE PROJECT GUTENBERG EBOOK X ***\n" for side in ("START", "END")]
    assert "A fox." in clean_book(f"{marks[0]}\nA fox.\n{middle}\nA crow.\n\n{marks[1]}".encode())
    assert clean_book(f"{marks[0]}\n{middle}\nA fox.\n\n{marks[1]}".encode()).endswith("A fox.\n")
