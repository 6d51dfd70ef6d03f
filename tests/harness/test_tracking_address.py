"""Addresses of stores: no password is shown or kept."""

import pytest

from harness.config import build
from harness.tracking_address import PASSWORD, USER, masked, storable, without_login


def test_a_login_moves_into_the_environment():
    environment = {}
    assert without_login("https://me:p%40ss@host:5000/x", environment) == "https://host:5000/x"
    assert environment == {USER: "me", PASSWORD: "p@ss"}


@pytest.mark.parametrize("uri", ["sqlite:///a@b.db", "http://host:5000", "postgresql://me:pw@host/db"])
def test_other_addresses_stay_as_they_are(uri):
    environment = {}
    assert without_login(uri, environment) == uri
    assert environment == {}


@pytest.mark.parametrize("uri", ["http://me@host", "http://me:@host", "postgresql://***@host/db"])
def test_half_a_login_is_refused_without_being_shown(uri):
    with pytest.raises(ValueError, match="must"):
        without_login(uri, {})


@pytest.mark.parametrize("uri", ["mlruns", "./mlruns", "file:///runs", "foo://bar", "", "sqlite:x.db"])
def test_what_is_no_address_of_a_store(uri):
    with pytest.raises(ValueError, match="must be an address of an MLflow store"):
        without_login(uri, {})


@pytest.mark.parametrize(
    "text, shown",
    [
        ("fails at http://me:pw@host/x (why)", "fails at http://***@host/x (why)"),
        ("a postgresql://me:p:w@host/db, b https://x:y@z", "a postgresql://***@host/db, b https://***@z"),
        ("sqlite:////home/me/mlflow.db", "sqlite:////home/me/mlflow.db"),
        ("http://host/users/me@lab", "http://host/users/me@lab"),
    ],
)
def test_masked(text, shown):
    assert masked(text) == shown


def test_a_benchmark_keeps_no_password(monkeypatch):
    for name in (USER, PASSWORD):
        monkeypatch.setenv(name, "")
    benchmark = build({"tracking_uri": "http://me:secret@host:5000"})
    assert "secret" not in repr(benchmark)
    assert benchmark.model_dump(mode="json")["tracking_uri"] == "http://host:5000"
    database = build({"tracking_uri": "postgresql://me:secret@host/db"})
    assert "secret" not in database.model_dump_json()
    assert storable("postgresql://me:secret@host/db") == "postgresql://***@host/db"
