"""Pages for people: one self-contained HTML file for each kind of result. Nothing is fetched."""

from jmlv.example import Example, Ways
from jmlv.report.campaign import campaign_page
from jmlv.report.guarantees import flips_page, kept_page
from jmlv.report.html import Page, require_page
from jmlv.report.labels import labels_page
from jmlv.report.neighborhood import neighborhood_page
from jmlv.report.relations import relations_page
from jmlv.report.verdict import verdict_page
