"""A reader of pages for the tests: what is in them, and what they would fetch."""

import html.parser

VOID = {"meta", "link", "input", "br", "img"}
OUTWARD = ("src", "href", "data", "action", "poster", "srcset")


class Read(html.parser.HTMLParser):
    """A page's elements; whatever a browser would stumble over is an assertion's failure."""

    def __init__(self, text):
        super().__init__()
        self.open, self.elements, self.ids, self.text = [], [], [], ""
        self.feed(text)
        assert not self.open, self.open
        assert len(self.ids) == len(set(self.ids)), "an id occurs twice"

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.elements.append((tag, attributes))
        self.ids += [attributes["id"]] if "id" in attributes else []
        for name in OUTWARD:
            assert attributes.get(name, "data:").startswith("data:"), (tag, attributes)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, tag

    def handle_data(self, data):
        if not self.open or self.open[-1] not in ("script", "style"):
            self.text += data

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


def read(path):
    text = path.read_text(encoding="utf-8")
    assert "http://" not in text and "https://" not in text and "@import" not in text
    assert path.stat().st_size < 1_500_000
    page = Read(text)
    labelled = {attributes.get("for") for attributes in page.all("label")}
    for field in page.all("input"):
        assert field["type"] == "checkbox" or field["id"] in labelled
    for drawing in page.all("svg"):
        assert drawing.get("role") == "img" or drawing.get("aria-hidden") == "true"
    assert [a["lang"] for a in page.all("html")] == ["en"] and len(page.all("h1")) == 1
    return page
