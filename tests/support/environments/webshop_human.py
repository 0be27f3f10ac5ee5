"""Simulated people who use the shop's web pages over HTTP. They send the same forms as a browser."""

from __future__ import annotations

import contextlib
import io

import httpx2 as httpx
from bs4 import BeautifulSoup
from support.environments.webshop_support import shop_environment

from arlarena.environments.webshop.human.app import HumanApp
from arlarena.environments.webshop.human.record import FILE
from arlarena.environments.webshop.human.visit_service import VisitService
from arlarena.environments.webshop.human.visitors import Visitors
from arlarena.proto.telemetry import Logger

BASE = "http://127.0.0.1:8300"


def human_shop(folder, environment=None, *, capacity=8, idle_s=60.0, clock=None, **settings):
    """Return the application with a catalogue in memory. It records episodes in `folder`."""
    log = io.StringIO()
    service = VisitService(environment or shop_environment(), "test", folder / FILE, Logger("human", stream=log))
    visitors = Visitors(capacity, idle_s, **({"clock": clock} if clock else {}))
    return HumanApp(service, visitors, **settings)


class Person:
    """A person with a browser. It keeps cookies, follows redirects, and sends the forms of the current page.

    Attributes:
        soup: the current page.
        response: the HTTP response with the current page.
    """

    def __init__(self, client):
        self.client = client

    async def get(self, path="/"):
        self._show(await self.client.get(path))

    async def post(self, path, **fields):
        self._show(await self.client.post(path, data=fields))

    async def start(self, **fields):
        await self.get()
        form = self.soup.find("form", action="/start")
        await self.post("/start", **(self.fields(form) | fields))

    async def search(self, words):
        form = self.soup.find("form", role="search")
        await self.post("/act", **(self.fields(form) | {"search": words}))

    async def press(self, label):
        await self.post("/act", **self.form_of(label))

    async def next_task(self):
        await self.post("/next", **self.fields(self.soup.find("form", action="/next")))

    def form_of(self, label):
        """Return the fields that a browser sends for the first button with this text."""
        button = next(one for one in self.soup.find_all("button", attrs={"name": "click"}) if label in one.get_text())
        assert not button.has_attr("disabled")
        return self.fields(self.soup.find("form", id=button["form"])) | {"click": button["value"]}

    @staticmethod
    def fields(form):
        return {one["name"]: one.get("value", "") for one in form.find_all("input")}

    @property
    def text(self):
        return self.soup.get_text(" ", strip=True)

    @property
    def note(self):
        found = self.soup.find(class_="note")
        return found.get_text() if found else ""

    @property
    def steps(self):
        return int(self.soup.find(class_="counter").get_text().split()[0])

    def _show(self, response):
        self.response, self.soup = response, BeautifulSoup(response.text, "html.parser")


@contextlib.asynccontextmanager
async def people(app, count=1):
    """Yield `count` people in the shop `app`. Each person has separate cookies."""
    async with contextlib.AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(
                httpx.AsyncClient(transport=httpx.ASGITransport(app=app.asgi()), base_url=BASE, follow_redirects=True)
            )
            for _ in range(count)
        ]
        yield [Person(client) for client in clients]
