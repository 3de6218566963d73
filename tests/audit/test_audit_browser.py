"""The page of a report in a real browser: charts, tables, links, and nothing fetched."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from audit_records import make_record
from browsing import BROWSER, Browser

from audit.chain import ChainState, link_line, segment_name
from audit.document import document_from_record
from audit.export.run import Export, run_export
from audit.record import DecisionFacts, PeerFacts
from audit.redact import Redactor
from audit.report import TITLES

pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium on the PATH")
_ALLOW = DecisionFacts(
    effect="allow", reason="allow_rule_matched", layer="ALLOW", http_status=200, policy="shop/web"
)
_HOSTILE = "</td></table><script>window.broken = 1</script><img src=x onerror='window.broken = 1'>"
_DAY = 86_400


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report over five days and twelve callers, refusals and a hostile name among them."""
    folder = tmp_path_factory.mktemp("browser") / "log"
    folder.mkdir()
    redactor, state, lines = Redactor(), ChainState(), []
    for number in range(120):
        name = f"spiffe://td/ns/a/sa/{number % 12}"
        peer = PeerFacts(principal=_HOSTILE if number == 77 else name)
        record = make_record(number, peer=peer, decided_at=1.7e9 + number % 5 * _DAY)
        if number % 3:
            record = replace(record, decision=_ALLOW)
        document = document_from_record(record, node="n", redactor=redactor)
        line, state = link_line(state, document)
        lines.append(line)
    (folder / segment_name(1)).write_bytes(b"".join(lines))
    file = folder.parent / "report.html"
    run_export(Export(log=folder, format="html"), file)
    return file


@pytest.fixture(scope="module")
def browser(page: Path) -> Iterator[Browser]:
    """A browser that shows the page."""
    with Browser(page.parent / "profile") as opened:
        opened.open(page)
        yield opened


def test_charts_are_drawn(browser: Browser) -> None:
    """Each chart has its marks, with a size: days, bars, hours, and who calls what."""
    sizes = """[...document.querySelectorAll("%s")].filter((each) => {
        const box = each.getBoundingClientRect(); return box.width > 0 && box.height > 0;
    }).length"""
    assert browser.value(sizes % "svg[aria-label='Answers by day'] rect.yes") == 5
    assert browser.value(sizes % "svg[aria-label='Answers by day'] rect.no") == 5
    assert browser.value(sizes % "svg[aria-label='Refusals by day'] rect.no") == 5
    assert browser.value(sizes % "svg[aria-label='Refusals by weekday and hour'] rect") == 7 * 24
    assert browser.value(sizes % "ol.bars li rect:not(.track)") >= 3
    assert browser.value(sizes % "table.cells td:not(.v0)") >= 12
    assert browser.value("document.querySelectorAll('svg [aria-label], svg title').length") > 170


def test_tables_hold_their_rows_and_can_be_filtered(browser: Browser) -> None:
    """Every section has its table; words narrow it, and it says how many are left."""
    rows = "document.querySelectorAll('#access-matrix tbody tr%s').length"
    assert browser.value(rows % "") == 13
    told = browser.value("""(() => {
        const part = document.getElementById("access-matrix"), field = part.querySelector("input");
        field.value = "get sa/7";
        field.dispatchEvent(new Event("input"));
        return part.querySelector("output").textContent;
    })()""")
    assert told == "1 of 13"
    assert browser.value(rows % ":not([hidden])") == 1
    browser.value("document.querySelector('#access-matrix input').value = ''")
    assert browser.value("document.querySelectorAll('section.part').length") == len(TITLES)


def test_links_lead_somewhere(browser: Browser) -> None:
    """Every link leads to a section of the page itself."""
    dead = "[...document.links].filter((each) => !document.querySelector(each.hash)).length"
    outside = "[...document.links].filter((each) => each.getAttribute('href')[0] !== '#').length"
    assert browser.value("document.links.length") > 30
    assert browser.value(dead) == browser.value(outside) == 0


def test_nothing_is_fetched_and_nothing_runs(browser: Browser, page: Path) -> None:
    """The one request is the page itself; no hostile text ran, and the policy had no complaint."""
    urls = [each["request"]["url"] for each in browser.told("Network.requestWillBeSent")]
    assert urls == [page.as_uri()]
    assert browser.told("Runtime.exceptionThrown") == []
    assert browser.told("Log.entryAdded") == []
    assert browser.value("typeof window.broken") == "undefined"
    assert browser.value("document.querySelectorAll('img, iframe, object, form').length") == 0


def test_page_is_light_and_dark(browser: Browser) -> None:
    """The page follows what its reader prefers, and can be read in both."""
    colors = {}
    for scheme in ("light", "dark"):
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        browser.ask("Emulation.setEmulatedMedia", features=features)
        found = browser.value("""["backgroundColor", "color"].map((each) => {
            const parts = getComputedStyle(document.body)[each].match(/\\d+/g).map(Number);
            return parts[0] + parts[1] + parts[2];
        })""")
        colors[scheme] = found[0] - found[1]
    browser.ask("Emulation.setEmulatedMedia", features=[])
    assert colors["light"] > 500
    assert colors["dark"] < -500


@pytest.mark.parametrize("width", [320, 480, 800, 1400])
def test_page_fits_any_screen(browser: Browser, width: int) -> None:
    """At no width does the page itself scroll sideways, only tables in their frames."""
    browser.ask(
        "Emulation.setDeviceMetricsOverride",
        width=width,
        height=800,
        deviceScaleFactor=1,
        mobile=False,
    )
    wide = browser.value("document.documentElement.scrollWidth")
    browser.ask("Emulation.clearDeviceMetricsOverride")
    assert wide <= width


def test_page_prints(browser: Browser) -> None:
    """Print is made: pages, in light colours, every section on them."""
    browser.ask("Emulation.setEmulatedMedia", media="print")
    hidden = browser.value("getComputedStyle(document.querySelector('nav')).display")
    browser.ask("Emulation.setEmulatedMedia", media="")
    raw = base64.b64decode(browser.ask("Page.printToPDF", preferCSSPageSize=True)["data"])
    assert hidden == "none"
    assert raw.startswith(b"%PDF-")
    assert raw.count(b"/Type /Page\n") >= 3
