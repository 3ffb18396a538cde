"""A wrong setting stops the start with one line that names it and says what it takes."""

import dataclasses
import os
from pathlib import Path

import pytest

from ticketboss.config import SECRETS, Config, ConfigurationError, load, misspelt
from ticketboss.serving import startup

PASSWORD = "correct-horse-battery"
URL = f"postgresql://ticketboss:{PASSWORD}@db.example:5432/ticketboss"
NUMBER = "a whole number from"

WRONG = [
    *(
        ("PORT", value, f"{NUMBER} 1 to 65535")
        for value in (
            *("abc", "0", "65536", "99999", "-1", "+80", "80.0", "8e3", " 8080", "8080 "),
            *("8080\n", "8_080", "0x50", "٨٠٨٠", "9" * 5000, "80\nforged", "\x1b[31m"),
        )
    ),
    ("WORKERS", "0", f"{NUMBER} 1 to 64"),
    ("WORKERS", "65", f"{NUMBER} 1 to 64"),
    ("THREADS", "3", f"{NUMBER} 4 to 256"),
    ("THREADS", "many", f"{NUMBER} 4 to 256"),
    ("POOL_SIZE", "1", f"{NUMBER} 2 to 64"),
    ("CONNECTIONS", "15", f"{NUMBER} 16 to 50000"),
    ("KEEPALIVE", "0", f"{NUMBER} 1 to 3600"),
    ("HOST", "not a host", "an address or a host name"),
    ("HOST", "127.0.0.1\n", "an address or a host name"),
    ("HOST", "http://127.0.0.1/", "an address or a host name"),
    *(
        ("EVENT_ID", value, "1 to 64 characters of a-z 0-9 . _ -, not . or ..")
        for value in ("Node", "a b", "a/b", "é", "x" * 65, "a\n", "a\nforged", " ")
    ),
    ("CPU_AFFINITY", "on", "auto or off"),
    ("CPU_AFFINITY", "0-1", "auto or off"),
    ("LOG_FORMAT", "xml", "auto, json or text"),
    ("LOG_FORMAT", "JSON", "auto, json or text"),
    *(("AUTH", value, "open or keys") for value in ("none", "KEYS", "open ", "true")),
    ("PARTNER_CONCURRENCY", "0", f"{NUMBER} 1 to 256"),
    ("PARTNER_CONCURRENCY", "257", f"{NUMBER} 1 to 256"),
    ("DATABASE_URL", "nonsense", "a PostgreSQL connection string"),
    ("DATABASE_URL", "mysql://root@localhost/x", "a PostgreSQL connection string"),
    ("DATABASE_URL", "sqlite:///ticketboss.db", "a PostgreSQL connection string"),
    ("DATABASE_URL", "postgresql://[::1/x", "a PostgreSQL connection string"),
    ("DATABASE_URL", "postgresql://h/x?nonsense=1", "a PostgreSQL connection string"),
    ("DATABASE_URL", "host=h port=1 nonsense", "a PostgreSQL connection string"),
    ("DATABASE_URL", "host=a,b port=1,2,3", "a PostgreSQL connection string"),
    *(
        ("TRUSTED_PROXIES", value, "IP addresses and networks such as 10.0.0.0/8")
        for value in ("proxy.internal", "10.0.0.0/33", "10.0.0.1/8", "10.0.0.1;10.0.0.2", "*")
    ),
    ("ADMIN_KEY", "short", "16 to 255 printable ASCII characters"),
    ("ADMIN_KEY", "x" * 256, "16 to 255 printable ASCII characters"),
    ("ADMIN_KEY", "sixteen characters with spaces", "16 to 255 printable ASCII characters"),
]


@pytest.fixture(autouse=True)
def _empty():
    """Leave the database alone: nothing here needs one."""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Work in an empty folder, with no setting in the environment."""
    for field in dataclasses.fields(Config):
        monkeypatch.delenv(field.name.upper(), raising=False)
    for name in ("TICKETBOSS_DATA", *(f"{name}_FILE" for name in SECRETS)):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(("name", "value", "takes"), WRONG, ids=lambda text: ascii(text)[1:-1][:24])
def test_a_wrong_value_is_refused_in_one_line_that_says_what_is_taken(name, value, takes):
    with pytest.raises(ConfigurationError) as refusal:
        load({name: value})
    line = str(refusal.value)
    assert line.startswith(f"{name} takes {takes}")
    assert line.isprintable()
    assert len(line) < 6000


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DATABASE_URL", f"postgresql://ticketboss:{PASSWORD}@[::1/x"),
        ("DATABASE_URL", f"host=h password={PASSWORD} nonsense"),
        ("DATABASE_URL", f"{URL}?nonsense={PASSWORD}"),
        ("ADMIN_KEY", f"{PASSWORD} with a space"),
        ("ADMIN_KEY", PASSWORD[:15]),
    ],
)
def test_a_secret_is_never_repeated(name, value):
    with pytest.raises(ConfigurationError) as refusal:
        load({name: value})
    assert PASSWORD[:8] not in str(refusal.value)
    assert refusal.value.__cause__ is None


def test_a_wrong_value_ends_the_start_with_status_1(folder, monkeypatch):
    monkeypatch.setenv("PORT", "abc")
    with pytest.raises(SystemExit) as end:
        startup.load_config()
    # A text as the code is printed, and the status is 1.
    assert end.value.code == "ticketboss: PORT takes a whole number from 1 to 65535, not 'abc'"


def test_nothing_set_means_the_defaults_that_the_readme_promises(folder):
    config = load()
    assert config == load({})
    assert config.database_url is None
    assert (config.host, config.port) == ("127.0.0.1", 8080)
    assert config.event_id == "node-meetup-2025"
    assert config.data == folder / ".data"
    assert config.admin_key is None
    assert config.auth is None


def test_every_value_that_is_taken_arrives():
    config = load(
        {
            "DATABASE_URL": URL,
            "TICKETBOSS_DATA": "/var/lib/ticketboss",
            "HOST": "::1",
            "PORT": "65535",
            "EVENT_ID": "a.b_c-1",
            "WORKERS": "64",
            "THREADS": "4",
            "POOL_SIZE": "2",
            "CONNECTIONS": "16",
            "KEEPALIVE": "1",
            "CPU_AFFINITY": "off",
            "LOG_FORMAT": "text",
            "ADMIN_KEY": "x" * 16,
            "AUTH": "keys",
            "PARTNER_CONCURRENCY": "3",
            "TRUSTED_PROXIES": "10.0.0.1, 192.168.0.0/16,::1",
        }
    )
    assert (config.database_url, config.data) == (URL, Path("/var/lib/ticketboss"))
    assert (config.host, config.port, config.event_id) == ("::1", 65535, "a.b_c-1")
    assert (config.workers, config.threads, config.pool_size) == (64, 4, 2)
    assert (config.connections, config.keepalive) == (16, 1)
    assert config.cpu_affinity == "off"
    assert (config.log_format, config.admin_key) == ("text", "x" * 16)
    assert (config.auth, config.partner_concurrency) == ("keys", 3)
    networks = ["10.0.0.1/32", "192.168.0.0/16", "::1/128"]
    assert list(map(str, config.trusted_proxies)) == networks


@pytest.mark.parametrize(("name", "value"), [("DATABASE_URL", URL), ("ADMIN_KEY", "x" * 16)])
def test_a_secret_may_stand_in_a_file(name, value, folder):
    (folder / "secret").write_text(f"{value}\n")
    assert load({f"{name}_FILE": "secret"}) == load({name: value}) != load({})
    with pytest.raises(ConfigurationError, match=f"^{name} and {name}_FILE are both set; one of"):
        load({name: value, f"{name}_FILE": "secret"})
    (folder / "secret").write_text(f"{PASSWORD} with a space")
    with pytest.raises(ConfigurationError, match=f"^{name} takes ") as refusal:
        load({f"{name}_FILE": "secret"})
    assert PASSWORD not in str(refusal.value)
    # A secret that has not arrived is not taken for none.
    (folder / "secret").write_text("\n")
    with pytest.raises(ConfigurationError, match=f"^{name}_FILE takes .*; 'secret' is empty$"):
        load({f"{name}_FILE": "secret"})
    (folder / "secret").write_bytes(b"\xff")
    with pytest.raises(ConfigurationError, match="it is not UTF-8$"):
        load({f"{name}_FILE": "secret"})
    with pytest.raises(ConfigurationError, match="'nowhere': No such file or directory$"):
        load({f"{name}_FILE": "nowhere"})


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("PROT", "PORT"),
        ("PORTS", "PORT"),
        ("TICKETBOS_DATA", "TICKETBOSS_DATA"),
        ("DATABASE_URI", "DATABASE_URL"),
        ("ADMIN_KEYFILE", "ADMIN_KEY_FILE"),
        ("POOLSIZE", "POOL_SIZE"),
    ],
)
def test_a_name_that_is_nearly_ours_is_taken_for_a_slip(name, meant):
    assert misspelt({name: "x", "PORT": "9000"}) == {name: meant}


def test_the_names_of_others_are_left_alone():
    others = (
        "HOSTNAME PGPORT PGHOST DB_PORT REDIS_PORT PATH HOME TERM SSH_CONNECTION LOG_LEVEL"
        " TICKETBOSS_PORT TICKETBOSS_SERVICE_HOST TEST_DATABASE_URL AGENT_ID"
    )
    ours = [field.name.upper() for field in dataclasses.fields(Config) if field.name != "data"]
    ours += ["TICKETBOSS_DATA", "DATABASE_URL_FILE", "ADMIN_KEY_FILE"]
    assert misspelt(dict.fromkeys([*others.split(), *ours], "x")) == {}


@pytest.mark.parametrize(
    "url",
    [
        URL,
        "postgres://h/x",
        "postgresql:///x?host=/run/postgresql",
        "postgresql://a:1,b:2,c/x?target_session_attrs=read-write",
        "host=a,b port=5432 dbname=x",
        "host=a,b port=1,2 dbname=x",
        "dbname=x",
    ],
)
def test_every_form_of_a_connection_string_is_taken(url):
    assert load({"DATABASE_URL": url}).database_url == url


@pytest.mark.parametrize("name", [field.name.upper() for field in dataclasses.fields(Config)])
def test_an_empty_value_counts_as_not_set(name):
    assert load({name: ""}) == load({})


def test_a_configuration_does_not_change_once_it_is_read():
    with pytest.raises(dataclasses.FrozenInstanceError):
        load({}).port = 1


# --- .env -------------------------------------------------------------------------


def test_a_dotenv_file_of_the_working_folder_is_read(folder):
    (folder / ".env").write_text(
        '# for development\nPORT=9001\nEVENT_ID="from-file"\nexport HOST=::1\nWORKERS=\n'
    )
    config = load()
    assert (config.port, config.event_id, config.host) == (9001, "from-file", "::1")
    assert config.workers == Config().workers


def test_the_environment_overrides_the_dotenv_file(folder, monkeypatch):
    (folder / ".env").write_text("PORT=9001\nEVENT_ID=from-file\n")
    monkeypatch.setenv("PORT", "9002")
    config = load()
    assert (config.port, config.event_id) == (9002, "from-file")


def test_a_wrong_value_in_the_dotenv_file_is_refused_like_any_other(folder):
    (folder / ".env").write_text("PORT=abc\n")
    with pytest.raises(ConfigurationError, match="^PORT takes"):
        load()


def test_a_dotenv_file_does_not_change_the_environment(folder):
    (folder / ".env").write_text("PORT=9001\n")
    load()
    assert "PORT" not in os.environ
