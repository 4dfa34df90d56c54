"""The configuration: layers, their order, and what an error says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import pytest

from trunkline.addresses import format_address, is_loopback, parse_address
from trunkline.config import Address, BrokerConfig, Limits, Listener, TlsFiles
from trunkline.config_sources import load_config
from trunkline.conversion import convert, describe_type
from trunkline.errors import ConfigurationError, InsecureListener
from trunkline.plugins import PluginHost
from trunkline.settings import TOPIC_SETTINGS

REFERENCE = Path(__file__).parent.parent / "docs" / "configuration.md"


def write(directory: Path, text: str) -> Path:
    file = directory / "trunkline.toml"
    file.write_text(text)
    return file


def error_of(file: Path | None = None, **layers: Any) -> str:
    with pytest.raises(ConfigurationError) as caught:
        load_config(file, **layers)
    return str(caught.value)


def test_nothing_given_is_the_default_configuration() -> None:
    assert load_config() == BrokerConfig()


def test_a_file_the_environment_and_flags_are_laid_over_each_other(tmp_path: Path) -> None:
    file = write(
        tmp_path, "storage = 'a'\nlog_level = 'debug'\n[limits]\nmax_connections = 1\nmax_outbound_bytes = 5000"
    )
    environ = {"TRUNKLINE_STORAGE": "b", "TRUNKLINE_LIMITS__MAX_CONNECTIONS": "2", "HOME": "/root"}
    config = load_config(file, environ=environ, flags={"storage": ("--store", "c")})
    assert config.storage == "c"
    assert config.log_level == "debug"
    assert config.limits == Limits(max_connections=2, max_outbound_bytes=5000)


def test_listen_flags_replace_the_listen_table(tmp_path: Path) -> None:
    file = write(tmp_path, "[listen]\nmqtt = '127.0.0.1:1883'")
    config = load_config(file, flags={"listen": ("--listen", {"native": ["127.0.0.1:0"]})})
    assert config.listeners({"mqtt": 1883}) == [Listener("native", Address("127.0.0.1", 0))]


def test_relative_paths_in_a_file_are_relative_to_it(tmp_path: Path) -> None:
    text = "data = 'd'\n[tls]\ncertificate = 'c.pem'\nkey = '/k.pem'\n[tls.door.mqtt]\ncertificate = 'm.pem'"
    config = load_config(write(tmp_path, text))
    assert config.data == tmp_path / "d"
    assert config.tls_for("native") == config.tls
    assert (config.tls.certificate, config.tls.key) == (str(tmp_path / "c.pem"), "/k.pem")
    assert config.tls_for("mqtt") == TlsFiles(certificate=str(tmp_path / "m.pem"))


def test_an_empty_certificate_switches_tls_off_for_one_door(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, "[tls]\ncertificate = 'c.pem'\n[tls.door.native]\ncertificate = ''"))
    assert config.tls_for("native") is None
    assert config.tls_for("mqtt") is not None


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("storag = 'x'", "storag: unknown key (value 'x'); did you mean storage?"),
        ("xyz = 1", "xyz: unknown key (value 1); known keys: data, storage,"),
        ("[limits]\nmax_connections = 0", "limits.max_connections: 0 is not allowed; use an integer, 1 or more"),
        ("[limits]\nmax_connections = '5'", "limits.max_connections: '5' is not allowed; use an integer, 1 or more"),
        ("[limits]\nmax_conections = 5", "limits.max_conections: unknown key (value 5); did you mean max_connections?"),
        ("log_level = 'loud'", "log_level: 'loud' is not allowed; use one of debug, info, warning, error"),
        ("plugins = 'a'", "plugins: 'a' is not allowed; use a list of: text"),
        ("data = 5", "data: 5 is not allowed; use a path"),
        ("[listen]\nmqtt = 5", "listen.mqtt: 5 is not allowed; use text or a list of: text"),
        ("[listen]\nBIG = 'x:1'", "listen.BIG: 'BIG' is not allowed; use text, like"),
        ("[topics]\ndefaults.segment.bytes = 5", "topic setting segment.bytes: '5' is not allowed, use 1024 to"),
        ("[topics.defaults]\n'segment.byte' = 5", "unknown topic setting 'segment.byte'; did you mean segment.bytes?"),
        ("x = ", "is not valid TOML"),
    ],
)
def test_an_error_names_file_key_value_and_what_is_allowed(tmp_path: Path, text: str, says: str) -> None:
    file = write(tmp_path, text)
    message = error_of(file)
    assert message.startswith(f"{file}: ")
    assert says in message


def test_every_wrong_key_is_listed_at_once(tmp_path: Path) -> None:
    file = write(tmp_path, "storag = 1\n[limits]\nmax_connections = 0")
    with pytest.raises(ConfigurationError) as caught:
        load_config(file)
    assert caught.value.keys == ["storag", "limits.max_connections"]


def test_an_error_names_the_variable_that_is_wrong() -> None:
    message = error_of(environ={"TRUNKLINE_LIMITS__MAX_CONNECTIONS": "many"})
    assert message.startswith("environment variable TRUNKLINE_LIMITS__MAX_CONNECTIONS: limits.max_connections: 'many'")


def test_an_empty_variable_does_not_mean_the_working_directory() -> None:
    with pytest.raises(ConfigurationError, match=r"^environment variable TRUNKLINE_DATA: data: '' is no directory"):
        load_config(environ={"TRUNKLINE_DATA": ""})


def test_an_error_names_the_flag_that_is_wrong() -> None:
    assert error_of(flags={"storage": ("--store", "BIG")}).startswith("--store: storage: 'BIG' is not allowed")


def test_an_unknown_variable_is_an_error_with_a_hint() -> None:
    assert "did you mean insecure?" in error_of(environ={"TRUNKLINE_INSECUR": "1"})


@pytest.mark.parametrize(
    "name", ["TRUNKLINE_PORT", "TRUNKLINE_PORT_7700_TCP_ADDR", "TRUNKLINE_SERVICE_HOST", "TRUNKLINE_SERVER", "PATH"]
)
def test_variables_of_others_are_ignored(name: str) -> None:
    assert load_config(environ={name: "tcp://10.0.0.1:7700"}) == BrokerConfig()


@pytest.mark.parametrize(
    ("name", "text", "path", "value"),
    [
        ("INSECURE", "true", ("insecure",), True),
        ("PLUGINS", "native, mine", ("plugins",), ["native", "mine"]),
        ("DATA", "/var/lib/x", ("data",), Path("/var/lib/x")),
        ("LIMITS__HANDSHAKE_TIMEOUT_S", "2.5", ("limits", "handshake_timeout_s"), 2.5),
        ("TOPICS__AUTO_CREATE", "false", ("topics", "auto_create"), False),
        ("TOPICS__DEFAULTS__SEGMENT_BYTES", "4096", ("topics", "defaults"), {"segment.bytes": "4096"}),
        ("LISTEN__NATIVE", "127.0.0.1:0", ("listen",), {"native": "127.0.0.1:0"}),
    ],
)
def test_a_variable_is_read_as_the_type_of_its_key(name: str, text: str, path: tuple[str, ...], value: object) -> None:
    found: Any = load_config(environ={f"TRUNKLINE_{name}": text})
    for key in path:
        found = getattr(found, key)
    assert found == value


def test_topic_defaults_may_be_written_as_dotted_keys_or_quoted(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, "[topics.defaults]\nsegment.bytes = 4096\n'durability' = 'os'"))
    assert config.topics.defaults == {"segment.bytes": "4096", "durability": "os"}


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    assert error_of(tmp_path / "none.toml") == f"{tmp_path / 'none.toml'}: cannot be read: No such file or directory"


def test_a_file_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_bytes(b"a = '\xff'")
    assert "is not UTF-8 (byte 5)" in error_of(tmp_path / "x.toml")


class Lane(msgspec.Struct, forbid_unknown_fields=True):
    """One of a list of tables."""

    to: str


class Ward(msgspec.Struct, forbid_unknown_fields=True):
    """A plugin's settings."""

    routes: list[dict[str, str]] = []
    lanes: tuple[Lane, ...] = ()
    retries: Annotated[int, msgspec.Meta(ge=0, le=9)] = 3
    mode: Literal["a", "b"] = "a"
    file: Path | None = None


def test_a_plugins_table_is_read_into_its_own_class(tmp_path: Path) -> None:
    file = write(tmp_path, "[door.ward]\nmode = 'b'\nfile = 'x'")
    config = load_config(file, environ={"TRUNKLINE_DOOR__WARD__RETRIES": "5"})
    assert config.plugin_settings("door", "ward", Ward) == Ward(mode="b", retries=5, file=Path("x"))


def test_a_plugin_without_a_table_gets_its_defaults() -> None:
    assert BrokerConfig().plugin_settings("store", "ward", Ward) == Ward()
    assert BrokerConfig().plugin_settings("store", "ward", None) is None


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[door.ward]\nretries = 10", "door.ward.retries: 10 is not allowed; use an integer, 0 to 9"),
        ("[door.ward]\nretry = 1", "door.ward.retry: unknown key (value 1); did you mean retries?"),
        ("[[door.ward.routes]]\n[[door.ward.routes]]\nx = 1", "door.ward.routes #2.x: 1 is not allowed; use text"),
        ("[door.ward]\nroutes = 1", "door.ward.routes: 1 is not allowed; use a list of: a table"),
        (
            "[[door.ward.lanes]]\nx = 1",
            "door.ward.lanes #1.x: unknown key (value 1); known keys: to; "
            "{file}: door.ward.lanes #1.to: missing; use text",
        ),
    ],
)
def test_an_error_in_a_plugins_table_names_file_and_key(tmp_path: Path, text: str, says: str) -> None:
    file = write(tmp_path, text)
    with pytest.raises(ConfigurationError) as caught:
        load_config(file).plugin_settings("door", "ward", Ward)
    assert str(caught.value) == f"{file}: {says.format(file=file)}"


def test_a_table_for_a_plugin_without_settings_is_an_error() -> None:
    with pytest.raises(ConfigurationError, match=r"door\.ward: this door has no settings"):
        BrokerConfig(door={"ward": {"x": 1}}).plugin_settings("door", "ward", None)


def test_a_missing_required_setting_is_named() -> None:
    class Needy(msgspec.Struct):
        url: str

    with pytest.raises(ConfigurationError, match=r"^store\.needy\.url: missing; use text$"):
        convert({}, Needy, path=("store", "needy"))


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (int, "an integer"),
        (Annotated[float, msgspec.Meta(gt=0)], "a number, more than 0"),
        (Annotated[str, msgspec.Meta(min_length=1)], "text, not empty"),
        (list[int] | None, "a list of: an integer"),
        (dict[str, int], "a table"),
        (bool, "true or false"),
    ],
)
def test_types_are_described_in_words(kind: object, words: str) -> None:
    assert describe_type(kind) == words


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:7700", ("127.0.0.1", 7700)),
        ("[::1]:0", ("::1", 0)),
        ("localhost:65535", ("localhost", 65535)),
    ],
)
def test_addresses_are_read_and_written_alike(text: str, address: tuple[str, int]) -> None:
    assert parse_address(text) == address
    assert str(parse_address(text)) == text
    assert format_address(*address) == text


@pytest.mark.parametrize("text", ["", "7700", ":7700", "host", "host:", "::1:80", "host:65536", "host:-1", "host:²"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="is not allowed"):
        parse_address(text)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost", "LOCALHOST", "::ffff:127.0.0.1"])
def test_loopback_is_recognised(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "::", "10.0.0.1", "example.org", "localhost.example.org", "::ffff:10.0.0.1"]
)
def test_what_others_can_reach_is_not_loopback(host: str) -> None:
    assert not is_loopback(host)


def test_without_a_listen_table_every_door_opens_on_loopback() -> None:
    assert BrokerConfig().listeners({"native": 7700, "mqtt": 1883}) == [
        Listener("native", Address("127.0.0.1", 7700)),
        Listener("mqtt", Address("127.0.0.1", 1883)),
    ]


def test_a_door_may_listen_on_several_addresses() -> None:
    config = BrokerConfig(listen={"mqtt": ["127.0.0.1:1", "[::1]:2"], "native": "127.0.0.1:3, 127.0.0.1:4"})
    assert [str(address) for _, address in config.listeners({})] == [
        "127.0.0.1:1", "[::1]:2", "127.0.0.1:3", "127.0.0.1:4",
    ]  # fmt: skip


def test_a_wrong_address_names_its_door() -> None:
    with pytest.raises(ConfigurationError, match=r"^listen\.mqtt: address 'x' is not allowed"):
        BrokerConfig(listen={"mqtt": "x"}).listeners({})


@pytest.mark.parametrize("address", ["0.0.0.0:1883", "[::]:1883", "example.org:1883"])
def test_listening_beyond_loopback_without_authentication_is_refused(address: str) -> None:
    with pytest.raises(InsecureListener, match=r"listen\.mqtt: .* --insecure"):
        BrokerConfig(listen={"mqtt": address}).listeners({})
    assert BrokerConfig(listen={"mqtt": address}, insecure=True).listeners({})


def keys_of(struct: type[msgspec.Struct], prefix: str = "") -> dict[str, Any]:
    """Every key of a section and its default, through the sections below it."""
    found: dict[str, Any] = {}
    for field in msgspec.structs.fields(struct):
        if isinstance(field.type, type) and issubclass(field.type, msgspec.Struct):
            found |= keys_of(field.type, f"{prefix}{field.encode_name}.")
        else:
            made = field.default_factory
            found[prefix + field.encode_name] = field.default if made is msgspec.NODEFAULT else made()
    return found


def documented(heading: str) -> dict[str, str]:
    """``key: default`` from the table of a section of the reference, whose rows start with the key as code."""
    (section,) = re.findall(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", REFERENCE.read_text(), re.M | re.S)
    rows = re.findall(r"^\| `([^`]+)` \|([^|]*)\|", section, flags=re.MULTILINE)
    return {key: default.strip().strip("`").replace("_", "") for key, default in rows}


def written(default: object) -> str:
    return (f"{default:g}" if isinstance(default, float) else str(default)).replace("_", "")


def test_the_reference_lists_every_key_and_no_other() -> None:
    sections = (
        "Top level",
        "`[topics]`",
        "`[limits]`",
        "`[housekeeping]`",
        "`[groups]`",
        "`[transactions]`",
        "`[websocket]`",
        "`[tls]`",
    )
    assert {key for section in sections for key in documented(section)} == {*keys_of(BrokerConfig)}


@pytest.mark.parametrize(
    ("section", "key"),
    [
        ("Top level", "storage"),
        ("Top level", "log_level"),
        ("`[topics]`", "topics.default_partitions"),
        *(("`[limits]`", key) for key in keys_of(Limits, "limits.")),
    ],
)
def test_the_reference_gives_the_default(section: str, key: str) -> None:
    assert documented(section)[key] == written(keys_of(BrokerConfig)[key])


@pytest.mark.parametrize("name", ["native", "mqtt"])
def test_the_reference_gives_every_setting_of_a_door_and_its_default(name: str) -> None:
    settings = PluginHost().door(name).settings_type
    assert settings is not None
    expected = {key: written(default) for key, default in keys_of(settings).items()}
    assert documented(f"`[door.{name}]`") == expected


def test_the_reference_gives_every_topic_setting_and_its_default() -> None:
    assert documented("Topic settings") == {name: row.default for name, row in TOPIC_SETTINGS.items()}


def test_the_examples_in_the_reference_are_configurations(tmp_path: Path) -> None:
    first, second = re.findall(r"```toml\n(.*?)```", REFERENCE.read_text(), flags=re.DOTALL)
    config = load_config(write(tmp_path, first))
    assert [listener.door for listener in config.listeners({})] == ["native", "mqtt", "mqtt"]
    config = load_config(write(tmp_path, second))
    listeners = {listener.door: config.tls_for(listener.door) is not None for listener in config.listeners({})}
    assert listeners == {"mqtt": False, "mqtt-tls": True, "mqtt-ws": False, "mqtt-ws-tls": True}
