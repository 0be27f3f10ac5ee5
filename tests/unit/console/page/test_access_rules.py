"""Who may use the page: Host, Origin and token."""

import pytest
from starlette.datastructures import Headers

from arlarena.console.page.server.security import AccessRules, PageError, is_loopback


def refusal(rules, method="GET", path="/api/runs", cookie="", **headers):
    """The status of a request, 0 if it is answered."""
    given = {"host": "127.0.0.1:8400"} | {name.replace("_", "-"): value for name, value in headers.items()}
    try:
        rules.check(method, path, Headers(given), cookie)
    except PageError as error:
        return error.status
    return 0


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.1:8400", "localhost:1", "[::1]:8400", "LOCALHOST"])
def test_a_loopback_page_answers_its_own_names(host):
    assert refusal(AccessRules("127.0.0.1", None), host=host) == 0


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "10.0.0.1", "", "[", "a@localhost.evil"])
def test_other_hosts_are_refused(host):
    """DNS rebinding: the name of another site leads to this address."""
    assert refusal(AccessRules("127.0.0.1", None), host=host) == 403


def test_requests_of_other_sites_change_nothing():
    rules = AccessRules("127.0.0.1", None)
    assert refusal(rules, "POST", origin="http://127.0.0.1:8400") == 0
    assert refusal(rules, "POST") == 0  # a program, not a browser
    assert refusal(rules, "POST", origin="http://evil.example") == 403
    assert refusal(rules, "POST", origin="null") == 403
    assert refusal(rules, "DELETE", origin="http://127.0.0.1:9") == 403
    assert refusal(rules, "POST", sec_fetch_site="cross-site") == 403


def test_other_addresses_need_the_token():
    rules = AccessRules("0.0.0.0", "right-token", ["page.example"])
    host = {"host": "10.1.2.3:8400"}
    assert refusal(rules, **host) == 401
    assert refusal(rules, **host, authorization="Bearer wrong") == 401
    assert refusal(rules, **host, authorization="Bearer right-token") == 0
    assert refusal(rules, **host, cookie="right-token") == 0
    assert refusal(rules, cookie="right-token", host="page.example") == 0
    assert refusal(rules, cookie="right-token", host="evil.example") == 403
    assert refusal(rules, path="/api/health", **host) == 0
    assert refusal(rules, path="/", **host) == 401


def test_loopback_addresses():
    assert all(map(is_loopback, ["127.0.0.1", "127.9.9.9", "::1", "localhost"]))
    assert not any(map(is_loopback, ["0.0.0.0", "::", "10.0.0.1", "example.org"]))
