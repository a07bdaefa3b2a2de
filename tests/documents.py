"""Pages as a browser reads them."""

from html.parser import HTMLParser

VOID = {"meta", "img", "link", "br", "input", "source"}


class Document(HTMLParser):
    """Tags, links and text of a page; checks that every element is closed."""

    def __init__(self, text):
        super().__init__()
        self.links, self.tags, self.words, self.open = [], [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.tags.append((tag, attributes))
        self.links += [attributes[a] for a in ("src", "href") if a in attributes]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())
