"""Cases for the fuzz of the command line: words, environment, and the files and folders that they name.

A case is plain data, from which `laid_out` makes its folder. Words are bytes, as a shell gives them to a program.
"""

import json
import os
import shutil
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args, get_origin

from hypothesis import strategies as st

from harness.config.benchmark import Benchmark, flag_of
from tests.support.planted import FORMS, SECRETS, addresses

SECRET = f"{SECRETS[0]}-{SECRETS[1]}"


@dataclass(frozen=True)
class Thing:
    """A path of the case's folder, and what lies there: `kind` is a key of `MAKERS`."""

    kind: str
    place: bytes
    change: tuple = ()


@dataclass(frozen=True)
class Case:
    """One command.

    Attributes:
        words: Its words; `%ROOT%` stands for the case's folder.
        environment: What its environment has beside the usual; `None` takes a variable out.
        things: What its folder holds.
        server: Encoding of file names and of the console, `utf-8` or `ascii`.
    """

    words: tuple[bytes, ...]
    environment: tuple[tuple[bytes, bytes | None], ...]
    things: tuple[Thing, ...]
    umask: int = 0o022
    closed: bool = False
    ordinary: bool = True
    server: str = "utf-8"


# --- names -------------------------------------------------------------------------------------------------

NAMES = [
    b"plain",
    b"plain",
    b"plain",
    b"a b",
    b"a\nb",
    b"a\tb",
    b"cr\rb",
    b"it's",
    b'say "x"',
    b"$HOME",
    b"$(x)",
    b"`x`",
    b"~",
    b"~nosuchaccount",
    b"-x",
    b"--out",
    "ä".encode(),
    "日本".encode(),
    "\u202ex".encode(),
    "\U0001f9ec".encode(),
    "e\u0301".encode(),
    b"\xff\xfe",
    b"x\xe4y",
    b"\xed\xa0\x80",
    b"a,b",
    b"a=b",
    b"a;b",
    b"a|b",
    b"[bold]x",
    b"[/red]",
    b"%s%d",
    b"{x}",
    b"a?b",
    b"a?mode=ro",
    b"a#b",
    b"a%2Fb",
    b"*",
    b"x" * 200,
    "ä".encode() * 127,
    b":memory:",
    b"\x1b[31mred",
    b"\x7f",
    b"con.json",
    b"back\\slash",
    b"a:b",
    b"a@b",
    b"file:x",
]

JUNK = [
    b"",
    b" ",
    b"x",
    b"-",
    b"--",
    b"-1",
    b"\xff",
    b"\x80abc",
    "ä".encode(),
    "\ufeff".encode(),
    b"null",
    b"None",
    b"[red]",
    b"[/]",
    b"a,b",
    b",",
    b"a,,b",
    b"\n",
    b"a\nb",
    b"\x1b[2J",
    b"%s",
    b"{0}",
    b"../..",
    b"/",
    b"/dev/null",
    b"/proc/self/mem",
    b"/nowhere/at/all",
    b"~/x",
    b"~nosuchaccount/x",
    b"x" * 300,
    b"x" * 5000,
    b"a/" * 3000,
    "\U0001f9ec".encode() * 50,
    b"=",
    b"--help",
]

NUMBERS = [
    *(
        b"0 1 2 3 8 16 100 -1 -0 007 1e3 0x10 1_000 1.5 inf -inf nan 1e400 1e-400 1e308 True 2147483647".split()
    ),
    *(b"2147483648 9223372036854775807 9223372036854775808 -9223372036854775809 999999999 1,2 1;2".split()),
    b" 3 ",
    b"9" * 30,
    b"9" * 310,
    b"9" * 5000,
    "٣".encode(),
    "²".encode(),
    "３".encode(),
    b"+2",
    b"1__0",
]

SPANS = [
    b"90m",
    b"12h",
    b"1h30m",
    b"0s",
    b"1.5d",
    b"h",
    b"-1h",
    b"9" * 400 + b"h",
    b"1e3s",
    b"1 h",
    "٣h".encode(),
]


def scalars():
    """A JSON value of a wrong kind."""
    return st.sampled_from(
        [
            None,
            True,
            -1,
            0,
            1,
            1.5,
            10**30,
            10**400,
            1e308,
            "",
            "x",
            "NaN",
            "Infinity",
            "a|b|c",
            "a|b",
            "\ud800",
            "[/red]",
            "x\ny",
            "x" * 10000,
            [],
            [1],
            [None],
            ["x", 1],
            {},
            {"x": 1},
            {"mcc": "x"},
            {"mcc": None},
            [[]],
            [{}],
            [{"key": 1}],
        ]
    )


# --- things ------------------------------------------------------------------------------------------------

PLAIN = [
    "missing",
    "empty",
    "bytes",
    "folder",
    "dangling",
    "loop",
    "fifo",
    "socket",
    "unreadable",
    "unreadable folder",
    "read-only folder",
    "link to folder",
]


def changes():
    """How a JSON or text file is spoilt: (what, number, value)."""
    kinds = st.sampled_from(
        [
            "set",
            "set",
            "set",
            "set",
            "delete",
            "delete",
            "cut",
            "bytes",
            "bom",
            "deep",
            "digits",
            "utf-16",
            "nul",
            "list",
            "empty",
            "spaces",
            "nan",
            "twice",
            "store",
        ]
    )
    return st.tuples(kinds, st.integers(0, 400), scalars())


def spoilt(text: bytes, change: tuple) -> bytes:
    """A file's content with one change."""
    what, number, value = change
    if what == "store":
        address = FORMS[sorted(FORMS)[number % len(FORMS)]].format(scheme="postgresql", password=SECRET)
        return text.replace(b'"tracking_uri": null', b'"tracking_uri": ' + json.dumps(address).encode())
    if what in ("set", "delete"):
        try:
            read = json.loads(text)
        except ValueError:
            return text.replace(b": ", b": " + repr(value).encode("utf-8", "replace") + b" ", 1 + number % 3)
        places = list(_places(read))
        holder, key = places[number % len(places)]
        if what == "set":
            holder[key] = value
        else:
            del holder[key]
        return json.dumps(read).encode()
    if what == "cut":
        return text[: len(text) * (number % 100) // 100]
    at = number % max(len(text), 1)
    return {
        "bytes": text[:at] + b"\xff\xe4" + text[at:],
        "bom": b"\xef\xbb\xbf" + text,
        "deep": b"[" * 100_000,
        "digits": b'{"a": ' + b"1" * 6000 + b"}",
        "utf-16": text.decode("utf-8", "replace").encode("utf-16"),
        "nul": text[:at] + b"\0" + text[at:],
        "list": b"[" + text + b"]",
        "empty": b"",
        "spaces": b" \n\t",
        "nan": b"NaN",
        "twice": text + text,
    }[what]


def _places(value):
    """(container, key) of everything in plain data."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in list(items):
        yield value, key
        yield from _places(inner)


FILES_OF_A_RUN = ("benchmark.json", "plan.json", "record", "mlflow.db", "records", "tracked")


def things(*kinds: str):
    """A thing of one of the kinds, or of any plain one; three of four are of the former."""
    return st.builds(
        Thing,
        st.one_of(*[st.sampled_from(kinds)] * 3, st.sampled_from(PLAIN)),
        st.one_of(
            st.sampled_from(NAMES),
            st.builds(lambda a, b: a + b"/" + b, st.sampled_from(NAMES), st.sampled_from(NAMES)),
            st.binary(min_size=1, max_size=12)
            .map(lambda name: name.replace(b"\0", b"").replace(b"/", b"") or b"x")
            .filter(lambda name: name not in (b".", b"..")),
        ),
        st.one_of(
            st.just(()),
            st.tuples(st.sampled_from(FILES_OF_A_RUN), st.sampled_from(PLAIN)),
            st.tuples(st.sampled_from(FILES_OF_A_RUN[:3]), changes()),
            st.tuples(st.sampled_from(FILES_OF_A_RUN[:3]), changes()),
        ),
    )


@dataclass
class Templates:
    """What things are copied from: folder of a run, of data, of a model, and files by kind."""

    run: Path
    data: Path
    model: Path
    texts: dict[str, bytes] = field(default_factory=dict)


def make_plain(kind: str, path: bytes) -> None:
    """Make a thing that is not a run, data or a model."""
    if kind == "missing":
        return
    os.makedirs(os.path.dirname(path), exist_ok=True)
    if kind in ("empty", "bytes", "unreadable"):
        with open(path, "xb") as file:
            file.write(b"\xff\xfe\x00\x01 no text \xe4\n" * 20 if kind != "empty" else b"")
        if kind == "unreadable":
            os.chmod(path, 0)
    elif kind in ("folder", "unreadable folder", "read-only folder"):
        os.makedirs(path, exist_ok=True)
        os.chmod(path, {"folder": 0o755, "unreadable folder": 0, "read-only folder": 0o555}[kind])
    elif kind == "dangling":
        os.symlink(b"nowhere/at/all", path)
    elif kind == "loop":
        os.symlink(os.path.basename(path), path)
    elif kind == "link to folder":
        os.symlink(b"/usr/share", path)
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as made:
            folder = os.open(os.path.dirname(path), os.O_PATH)
            with suppress(OSError):  # a long name
                made.bind(b"/proc/self/fd/%d/" % folder + os.path.basename(path))
            os.close(folder)


def make_tree(source: Path, path: bytes, change: tuple, known: dict[str, Callable[[bytes], bytes]]) -> None:
    """Copy a folder, and spoil or replace one of its files, or take it away."""
    target = os.fsdecode(path)
    shutil.copytree(source, target, dirs_exist_ok=True)
    if not change:
        return
    name, how = change
    file = known.get(name, lambda path: path + b"/" + name.encode())(path)
    if isinstance(how, tuple):
        if os.path.isfile(file):
            with open(file, "rb") as read:
                text = read.read()
            with open(file, "wb") as written:
                written.write(spoilt(text, how))
        return
    if os.path.isdir(file):
        shutil.rmtree(file)
    elif os.path.lexists(file):
        os.unlink(file)
    make_plain(how, file)


def _record(path: bytes) -> bytes:
    folder = path + b"/records"
    return folder + b"/" + sorted(os.listdir(folder))[0]


def _first_file(path: bytes) -> bytes:
    """Some file of a folder of data or of a model."""
    found = sorted(os.path.join(at, name) for at, _, names in os.walk(path) for name in names)
    return found[len(found) // 2]


def make(thing: Thing, root: bytes, templates: Templates) -> None:
    """Make a thing in the case's working folder; where its name is impossible it is missing."""
    path = root + b"/inputs/" + thing.place
    if os.path.lexists(path):
        return
    with suppress(FileExistsError, NotADirectoryError, IsADirectoryError):
        if thing.kind in PLAIN:
            make_plain(thing.kind, path)
        elif thing.kind == "run":
            make_tree(templates.run, path, thing.change, {"record": _record})
        elif thing.kind in ("data", "model"):
            source = templates.data if thing.kind == "data" else templates.model
            names = dict.fromkeys(FILES_OF_A_RUN, _first_file)
            make_tree(source, path, thing.change, names)
        else:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            text = templates.texts[thing.kind]
            if thing.change and isinstance(thing.change[1], tuple):
                text = spoilt(text, thing.change[1])
            with open(path, "xb") as file:
                file.write(text)


# --- commands ----------------------------------------------------------------------------------------------


@st.composite
def paths(draw, made, *kinds):
    """Words for a path, whose thing is added to `made`."""
    if draw(st.integers(0, 9)) == 0:
        return draw(st.sampled_from(JUNK))
    thing = draw(things(*kinds))
    made.append(thing)
    style = draw(st.integers(0, 7))
    place = thing.place
    if style < 3:
        return place if not place.startswith(b"-") or style else b"./" + place
    return {
        3: b"%ROOT%/inputs/" + place,
        4: place + b"/",
        5: b"./" + place + b"/.",
        6: b"../inputs/" + place,
        7: b"%ROOT%/inputs/nowhere/../" + place,
    }[style]


def numbers(*good: bytes):
    """A number that fits, or an odd one."""
    return st.one_of(*[st.sampled_from(good)] * 2, *[st.sampled_from(NUMBERS)] * 3, st.sampled_from(JUNK))


def words_of(*good: bytes):
    """A known word three times of four."""
    return st.one_of(*[st.sampled_from(good)] * 3, st.sampled_from(JUNK))


@st.composite
def stores(draw, made):
    """An address of a store, which may hold the planted secret."""
    kind = draw(st.integers(0, 9))
    if kind < 4:
        return draw(addresses()).replace("{out}", "%ROOT%/inputs").encode("utf-8", "surrogateescape")
    if kind < 8:
        thing = draw(things("store", "store", "run"))
        made.append(thing)
        inner = b"/mlflow.db" if thing.kind == "run" else b""
        return draw(st.sampled_from([b"sqlite:///", b"sqlite:///%ROOT%/inputs/"])) + thing.place + inner
    return draw(
        st.sampled_from(
            [
                *JUNK,
                b"sqlite://",
                b"sqlite:///",
                b"sqlite:///:memory:",
                b"http://127.0.0.1:9",
                b"http://[::1]:9",
                b"http://[::1",
                b"http://127.0.0.1:99999",
                b"http://\xff:1",
                b"https://127.0.0.1:9/x",
                b"env:STORE",
                b"env:",
                b"env:NO_SUCH",
                b"databricks",
                b"databricks://x",
                b"file:///x",
                b"postgresql://127.0.0.1:1/x",
                b"mysql+nosuch://h/x",
                b"postgresql://***@h/db",
                f"postgresql://u:{SECRET}@h/db {SECRET}".encode(),
            ]
        )
    )


@st.composite
def _best(draw, made):
    words = []
    if draw(st.integers(0, 4)):
        words.append(draw(paths(made, "run")))
    options = draw(
        st.lists(
            st.sampled_from(
                ["uri", "experiment", "task", "backbone", "method", "metric", "format", "register", "odd"]
            ),
            max_size=2,
        )
    )
    if not words and draw(st.integers(0, 3)):
        options += ["uri", "experiment"]
    for name in options:
        words += {
            "uri": lambda: [b"--tracking-uri", draw(stores(made))],
            "experiment": lambda: [b"--experiment", draw(words_of(b"bench"))],
            "task": lambda: [b"--task", draw(words_of(b"EMP/H3", b"EMP/H3,x"))],
            "backbone": lambda: [b"--backbone", draw(words_of(b"tiny"))],
            "method": lambda: [b"--method", draw(words_of(b"lora"))],
            "metric": lambda: [b"--metric", draw(words_of(b"mcc", b"auroc", b"loss", b"collapsed"))],
            "format": lambda: [b"--format", draw(words_of(b"yaml", b"json", b"table"))],
            "register": lambda: [b"--register", draw(words_of(b"model", "mödel".encode()))],
            "odd": lambda: [draw(st.sampled_from(JUNK))],
        }[name]()
    return words


@st.composite
def _sync(draw, made):
    words = [draw(paths(made, "run"))]
    for name in draw(st.lists(st.sampled_from(["uri", "again", "odd", "run"]), max_size=2)):
        words += {
            "uri": lambda: [b"--tracking-uri", draw(stores(made))],
            "again": lambda: [b"--again"],
            "odd": lambda: [draw(st.sampled_from(JUNK))],
            "run": lambda: [draw(stores(made))],
        }[name]()
    return words


@st.composite
def _doctor(draw, made):
    words = []
    for name in draw(
        st.lists(st.sampled_from(["models", "models", "data", "data", "tasks", "out", "odd"]), max_size=2)
    ):
        words += {
            "models": lambda: [
                b"--models",
                draw(st.one_of(paths(made, "model"), words_of(b"opt-125m", b"a/b"))),
            ],
            "data": lambda: [b"--data-dir", draw(paths(made, "data"))],
            "tasks": lambda: [
                b"--tasks",
                draw(st.one_of(words_of(b"mouse/2", b"mouse/2,EMP/H3"), paths(made, "csv", "data"))),
            ],
            "out": lambda: [b"--out", draw(paths(made, "folder"))],
            "odd": lambda: [draw(st.sampled_from(JUNK))],
        }[name]()
    return [*words, b"--no-ray"]


def _drawn(annotation):
    """What is drawn for a setting of this type; `None` for a switch."""
    kind = next((one for one in (annotation, *get_args(annotation)) if get_origin(one) is Literal), None)
    if kind is not None:
        return lambda made: words_of(*(word.encode() for word in get_args(kind)))
    if annotation is bool:
        return None
    return lambda made: numbers(b"0", b"1", b"4", b"0.5")


PLAN = {
    **{
        flag_of(name)[2:].encode(): _drawn(field.annotation) for name, field in Benchmark.model_fields.items()
    },
    b"suite": lambda made: words_of(b"quickstart", b"gue", b"paper", b"paper-gue", b"nt", b"geneb"),
    b"shots": lambda made: numbers(b"1", b"1,10", b"5,all"),
    b"tasks": lambda made: st.one_of(
        words_of(
            b"mouse/2", b"EMP/H3,mouse/2", b"quickstart/promoter", b"mouse/2@5-shot", b"nt/promoter_all"
        ),
        paths(made, "csv", "data", "own"),
    ),
    b"models": lambda made: st.one_of(words_of(b"quickstart-opt", b"opt-125m", b"a/b"), paths(made, "model")),
    b"methods": lambda made: words_of(b"lora", b"lora,adalora", b"ars", b"full", b"dora"),
    b"data-dir": lambda made: paths(made, "data"),
    b"no-drop-leaks": None,
    b"settings": lambda made: paths(made, "settings"),
    b"search-space": lambda made: paths(made, "space"),
    b"config": lambda made: paths(made, "config"),
    b"learn-from": lambda made: st.one_of(words_of(b"none"), paths(made, "run", "folder")),
    b"seeds": lambda made: numbers(b"0", b"0,1", b"0,1,2"),
    b"time-budget": lambda made: st.one_of(st.sampled_from(SPANS), st.sampled_from(JUNK)),
    b"study-time-budget": lambda made: st.sampled_from(SPANS),
    b"out": lambda made: paths(made, "folder", "run"),
    b"tracking-uri": lambda made: stores(made),
    b"cluster": lambda made: st.one_of(
        paths(made, "cluster"), words_of(b"auto", b"http://127.0.0.1:9", b"ray://127.0.0.1:9"), stores(made)
    ),
    b"storage-path": lambda made: st.one_of(
        paths(made, "folder"), stores(made), words_of(b"s3://bucket/x", f"s3://k:{SECRET}@bucket".encode())
    ),
}
"""Options of `plan`, with what is drawn for them; `None` for switches."""

USUAL = [
    [],
    [b"--tasks", b"mouse/2", b"--models", b"opt-125m"],
    [b"--tasks", b"EMP/H3", b"--methods", b"lora,ars"],
    [b"--tasks", b"quickstart/promoter", b"--models", b"quickstart-opt"],
]


@st.composite
def _plan(draw, made):
    words = list(draw(st.sampled_from(USUAL)))
    for name in draw(st.lists(st.sampled_from(sorted(PLAN)), max_size=3)):
        value = PLAN[name]
        if value is None:
            words.append(b"--" + name)
        elif draw(st.integers(0, 3)):
            words += [b"--" + name, draw(value(made))]
        else:
            words.append(b"--" + name + b"=" + draw(value(made)))
    if draw(st.integers(0, 19)) == 0:
        words.append(draw(st.sampled_from(JUNK)))
    return [*words, b"--no-measure"]


# --- surroundings ------------------------------------------------------------------------------------------

FOLDERS = [
    b"%ROOT%/home",
    b"%ROOT%/home",
    b"%ROOT%/home",
    None,
    b"",
    b"/nowhere/at/all",
    b"%ROOT%/a file",
    b"%ROOT%/read-only",
    b"%ROOT%/unreadable",
    b"%ROOT%/\xff\xe4 odd\n[bold]'",
    b"relative",
    b".",
    b"/dev/null",
    b"%ROOT%/" + b"long/" * 40,
    b"/proc",
    b"~",
]

VARIABLES = {
    b"LC_ALL": [b"C", b"POSIX", b"C.UTF-8", b"de_DE.ISO-8859-1", b"junk", b"", b"\xff"],
    b"LANG": [b"C", b"en_US.UTF-8", b"tr_TR.UTF-8", b"junk"],
    b"PYTHONIOENCODING": [
        b"utf-8",
        b"ascii",
        b"ascii:strict",
        b"latin-1",
        b"utf-8:strict",
        b"utf-16",
        b"cp1252",
    ],
    b"COLUMNS": [
        *(b"1 2 3 5 10 20 40 80 200 1000 0 -5 junk 1e3 99999999999".split()),
        b"",
        "²".encode(),
        "٣".encode(),
        b"\xff",
    ],
    b"LINES": [b"1", b"0", b"junk", "²".encode()],
    b"TERM": [b"dumb", b"", b"xterm-256color", b"vt100", b"unknown", b"\xff", None],
    b"NO_COLOR": [b"1"],
    b"FORCE_COLOR": [b"1", b"0"],
    b"TTY_COMPATIBLE": [b"1"],
    b"TTY_INTERACTIVE": [b"1"],
    b"TZ": [b"UTC", b"junk", b"\xff"],
    b"PATH": [b"", b"/nowhere", None, b"\xff"],
    b"USER": [None, b"", b"\xff", "ä".encode()],
    b"HF_HOME": [*FOLDERS],
    b"HF_TOKEN": [SECRET.encode()],
    b"XDG_CACHE_HOME": [*FOLDERS],
    b"MLFLOW_TRACKING_PASSWORD": [SECRET.encode()],
    b"MLFLOW_TRACKING_USERNAME": [b"me"],
    b"MLFLOW_TRACKING_TOKEN": [SECRET.encode()],
    b"MLFLOW_EXPERIMENT_NAME": [b"other", b"\xff"],
    b"MLFLOW_RUN_ID": [b"junk"],
    b"AWS_SECRET_ACCESS_KEY": [SECRET.encode()],
    b"RAY_AUTH_TOKEN": [SECRET.encode()],
    b"RAY_ADDRESS": [b"junk", b"127.0.0.1:1"],
    b"RAY_TMPDIR": [*FOLDERS],
    b"CUDA_VISIBLE_DEVICES": [b"", b"-1", b"junk"],
    b"OMP_NUM_THREADS": [b"0", b"junk", b"-1"],
    b"CI": [b"true"],
    b"JUPYTER_COLUMNS": [b"junk"],
    b"GIT_DIR": [b"/nowhere", b"\xff"],
    b"http_proxy": [b"http://127.0.0.1:9", f"http://u:{SECRET}@127.0.0.1:9".encode(), b"junk"],
    b"SQLALCHEMY_WARN_20": [b"1"],
    b"MLFLOW_LOGGING_LEVEL": [b"DEBUG", b"junk"],
    b"MLFLOW_HTTP_REQUEST_MAX_RETRIES": [b"junk", b"0", b"99"],
    b"MLFLOW_HTTP_REQUEST_TIMEOUT": [b"junk", b"0", b"-1"],
    b"HF_HUB_OFFLINE": [b"1"],
}


@st.composite
def environments(draw, made):
    """Changes of the environment."""
    changed = {
        b"HOME": draw(st.sampled_from(FOLDERS)),
        b"TMPDIR": draw(st.one_of(*[st.just(b"%ROOT%/tmp")] * 2, st.sampled_from(FOLDERS[3:]))),
    }
    for name in draw(st.lists(st.sampled_from(sorted(VARIABLES)), max_size=3)):
        changed[name] = draw(st.sampled_from(VARIABLES[name]))
    if draw(st.integers(0, 5)) == 0:
        changed[b"MLFLOW_TRACKING_URI"] = draw(stores(made)).replace(b"\0", b"")
    if draw(st.integers(0, 5)) == 0:
        changed[b"STORE"] = draw(stores(made)).replace(b"\0", b"")
    return tuple(changed.items())


COMMANDS = {b"best": _best, b"sync": _sync, b"doctor": _doctor, b"plan": _plan}
SHARES = [b"best"] * 6 + [b"sync"] * 4 + [b"doctor"] * 3 + [b"plan"] * 6


@st.composite
def cases(draw, shares=SHARES):
    """A command with its surroundings."""
    command = draw(st.sampled_from(shares))
    made: list[Thing] = []
    words = draw(COMMANDS[command](made))
    return Case(
        words=tuple(word.replace(b"\0", b"") for word in (command, *words)),
        environment=draw(environments(made)),
        things=tuple(made),
        umask=draw(st.sampled_from([0o022, 0o022, 0o077, 0o000, 0o002, 0o777, 0o277, 0o555])),
        closed=draw(st.sampled_from([False, False, False, True])),
        ordinary=draw(st.sampled_from([True, True, True, False])),
        server=draw(st.sampled_from(["utf-8", "ascii"])),
    )


def laid_out(case: Case, root: Path, templates: Templates) -> tuple[list[bytes], dict[bytes, bytes]]:
    """Make the case's folder; returns its words and its environment."""
    at = os.fsencode(root)
    for name in ("home", "inputs", "tmp", "read-only", "unreadable", "checks"):
        (root / name).mkdir()
    (root / "a file").write_text("")
    os.makedirs(at + b"/\xff\xe4 odd\n[bold]'")
    for thing in case.things:
        with suppress(OSError):
            make(thing, at, templates)
    (root / "read-only").chmod(0o555)
    (root / "unreadable").chmod(0)
    environment = {
        b"PATH": os.fsencode(os.environ["PATH"]),
        b"OMP_NUM_THREADS": b"1",
        b"HF_HUB_OFFLINE": b"1",
        b"LANG": b"C.UTF-8",
    }
    for name, value in case.environment:
        if value is None:
            environment.pop(name, None)
        else:
            environment[name] = value.replace(b"%ROOT%", at)
    return [word.replace(b"%ROOT%", at) for word in case.words], environment
