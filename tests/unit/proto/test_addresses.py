"""Normalisation of the base URLs of services."""

import pytest

from arlarena.proto.http.addresses import service_url


@pytest.mark.parametrize("end", ["", "/", "/v1", "/v1/", "/v1//", " ", "/v1/ \n"])
@pytest.mark.parametrize(
    "base", ["http://127.0.0.1:8100", "https://api.openai.com", "http://[::1]:8100", "http://x/proxy"]
)
def test_a_final_v1_and_slashes_are_removed(base, end):
    assert service_url(base + end) == base


@pytest.mark.parametrize("url", ["http://x/v1beta", "http://x/openv1", "http://v1", "http://x/v1/models"])
def test_other_paths_are_kept(url):
    assert service_url(url) == url


@pytest.mark.parametrize("url", ["", "/v1", "127.0.0.1:8100", "localhost:8100/v1", "ftp://x", "http://", "http:///v1"])
def test_an_invalid_service_address_is_refused(url):
    with pytest.raises(ValueError, match="service address"):
        service_url(url)
