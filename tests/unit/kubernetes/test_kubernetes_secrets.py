"""The Secrets that scripts/kubernetes_secrets.py creates."""

import base64
import hashlib
import json
import shutil
import socket
import ssl
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from scripts.kubernetes_secrets import ROLES, keys, manifest, values
from scripts.redis_users import users_file

ROOT = Path(__file__).resolve().parents[3]
COMMAND = (sys.executable, "-m", "scripts.kubernetes_secrets")

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the program openssl")


@pytest.fixture(scope="module")
def secrets():
    return values(days=2)


def test_each_secret_has_its_keys(secrets):
    assert {name: set(data) for name, data in secrets.items()} == keys()


def test_the_users_file_has_hashes_and_no_password(secrets):
    file = secrets["redis-users"]["users.acl"]
    for role in ROLES:
        password = secrets[f"redis-{role}"]["password"]
        assert password not in file
        assert f"user {role} on #{hashlib.sha256(password.encode()).hexdigest()} " in file
    assert "{hash" not in file
    assert "user default off\n" in file


def test_clients_verify_the_certificate_under_the_names_of_the_service(secrets, tmp_path):
    for name, text in secrets["redis-tls"].items():
        (tmp_path / name).write_text(text)
    server, client = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), ssl.create_default_context()
    server.load_cert_chain(tmp_path / "tls.crt", tmp_path / "tls.key")
    client.load_verify_locations(cadata=secrets["redis-ca"]["ca.crt"])

    def connect(host):
        ours, theirs = socket.socketpair()
        accepting = threading.Thread(target=accept, args=(theirs,))
        accepting.start()
        try:
            with client.wrap_socket(ours, server_hostname=host):
                return True
        finally:
            ours.close()
            accepting.join(10)

    def accept(connection):
        try:
            server.wrap_socket(connection, server_side=True).close()
        except OSError:
            connection.close()

    assert connect("redis")
    assert connect("redis.arlarena.svc")
    with pytest.raises(ssl.SSLCertVerificationError):
        connect("other")


def test_a_manifest_has_the_encoded_values():
    one = manifest("inference-api-key", {"token": "abc"})
    assert (one["kind"], one["metadata"]["namespace"]) == ("Secret", "arlarena")
    assert base64.b64decode(one["data"]["token"]) == b"abc"


def test_the_script_prints_a_list_for_kubectl():
    printed = json.loads(subprocess.run(COMMAND, cwd=ROOT, capture_output=True, check=True).stdout)
    assert {item["metadata"]["name"] for item in printed["items"]} == set(keys())


def test_the_users_file_has_only_the_given_roles_and_a_role_without_a_template_is_refused():
    lines = users_file({"keda": "a", "trainer": "b"}).splitlines()
    assert [line.split()[1] for line in lines] == ["default", "probe", "trainer", "keda"]
    with pytest.raises(ValueError, match=r"users\.acl has no user for worker"):
        users_file({"worker": "a"})
