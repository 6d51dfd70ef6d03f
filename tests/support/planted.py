"""Help for tests of secrets: addresses of stores in every form, each with a planted password."""

from urllib.parse import quote, quote_plus

from hypothesis import strategies as st

SECRETS = ("Qx7vKplanted", "w9Zplanted")
"""Both halves of every planted password."""


def raw(text):
    return text


MARKS = [
    "",
    "/",
    "#",
    "?",
    "@",
    "%",
    " ",
    "+",
    ":",
    "&",
    "=",
    ";",
    "ä",
    "\\",
    "'",
    '"',
    "[",
    "%2F",
    "%41",
    "\t",
]
FORMS = {
    "login": "{scheme}://user:{password}@db.example:5432/bench",
    "user": "{scheme}://{password}:x@db.example/bench",
    "login and query": "{scheme}://u:{password}@db.example/bench?sslmode=require",
    "query": "{scheme}://db.example/bench?user=u&password={password}",
    "query alone": "{scheme}:///?password={password}&user=u",
    "query without a name": "{scheme}://db.example/bench?{password}",
    "query first": "{scheme}://db.example?passwd={password}@x",
    "sslpassword": "{scheme}://db.example/bench?sslmode=require&sslpassword={password}",
    "odbc": "mssql+pyodbc:///?odbc_connect=DRIVER%3D%7BODBC%7D%3BSERVER%3Dh%3BUID%3Du%3BPWD%3D{password}",
    "odbc, plain": "mssql+pyodbc:///?odbc_connect=DRIVER={{ODBC}};SERVER=h;UID=u;PWD={password}",
    "semicolons": "{scheme}://db.example/bench;PWD={password}",
    "fragment": "{scheme}://db.example/bench#password={password}",
    "server": "http://user:{password}@127.0.0.1:9",
    "server, user alone": "http://{password}@127.0.0.1:9",
    "server, query": "https://127.0.0.1:9/?token={password}",
    "file, query": "sqlite:///{{out}}/x.db?password={password}",
    "file, login": "sqlite://u:{password}@/x.db",
    "other": "postgres://u:{password}@db.example/bench",
    "no scheme": "u:{password}@db.example/bench",
    "databricks": "databricks://token:{password}@host",
    "variable": "env:{password}/",
}


@st.composite
def addresses(draw):
    """An address with a planted password; `{out}` stands for a folder."""
    password = f"{SECRETS[0]}{draw(st.sampled_from(MARKS))}{SECRETS[1]}{draw(st.sampled_from(MARKS))}"
    encode = draw(st.sampled_from([raw, quote, quote_plus, lambda text: quote(text, safe="")]))
    form = FORMS[draw(st.sampled_from(sorted(FORMS)))]
    scheme = draw(st.sampled_from(["postgresql", "postgresql+quoting", "mysql+absent", "mssql+absent"]))
    return form.format(scheme=scheme, password=encode(password))


def leaks(*texts):
    text = "\n".join(map(str, texts)).lower()
    return [secret for secret in SECRETS if secret.lower() in text]
