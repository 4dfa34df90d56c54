"""Finding and loading plugins: all of one or nothing, and a reason for each that cannot."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
import types
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from trunkline import hookspecs, plugins
from trunkline.bridge import Bridge, BridgeContext
from trunkline.door import Door, DoorContext
from trunkline.errors import PluginError
from trunkline.hookspecs import RegisterBridge, RegisterDoor, RegisterStore, hookimpl
from trunkline.log import Store, StoreContext
from trunkline.plugins import DEFAULT_PLUGINS, InstalledPlugin, PluginHost, installed_plugins

DOCS = Path(__file__).parent.parent / "docs" / "plugins.md"


class Settings(msgspec.Struct):
    """Settings of the plugins here."""


def make_store(context: StoreContext) -> Store:
    raise NotImplementedError  # nothing here opens a store


def make_door(context: DoorContext) -> Door:
    raise NotImplementedError  # nothing here opens a door


def make_bridge(context: BridgeContext) -> Bridge:
    raise NotImplementedError  # nothing here runs a bridge


class All:
    """A plugin that offers a store, a door and a bridge."""

    @hookimpl
    def register_stores(self, register: RegisterStore) -> None:
        register("shelf", make_store, settings=Settings)

    @hookimpl
    def register_doors(self, register: RegisterDoor) -> None:
        register("hatch", make_door, default_port=4242)

    @hookimpl
    def register_bridges(self, register: RegisterBridge) -> None:
        register("gangway", make_bridge, settings=Settings)


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Installs distributions, each with one module and its entry point, where this process finds them."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def install_one(plugin: str, source: str, *, distribution: str = "stranger", module: str = "") -> None:
        module = module or f"trunkline_test_{plugin}_{distribution}"
        (tmp_path / f"{module}.py").write_text(textwrap.dedent(source))
        metadata = tmp_path / f"{distribution}-1.2.dist-info"
        metadata.mkdir(exist_ok=True)
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.2\n")
        with (metadata / "entry_points.txt").open("a") as file:
            file.write(f"[trunkline]\n{plugin} = {module}\n")
        plugins._entry_points.cache_clear()

    yield install_one
    for name in [name for name in sys.modules if name.startswith("trunkline_test_")]:
        del sys.modules[name]
    monkeypatch.undo()
    plugins._entry_points.cache_clear()


GOOD = """
    from trunkline.hookspecs import hookimpl

    @hookimpl
    def register_stores(register):
        register("attic", print)
"""


@pytest.mark.parametrize("name", DEFAULT_PLUGINS)
def test_every_built_in_plugin_is_installed_and_loads(name: str) -> None:
    host = PluginHost()
    assert host.load(name)
    assert name in {*host.stores, *host.doors, *host.bridges}


def test_a_plugin_registers_stores_doors_and_bridges() -> None:
    host = PluginHost()
    host.add("both", All())
    assert host.store("shelf") == ("shelf", make_store, Settings, "both")
    assert host.door("hatch") == ("hatch", make_door, 4242, None, "both", None)
    assert host.bridge("gangway") == ("gangway", make_bridge, Settings, "both")
    assert host.loaded == ["both"]


def test_installed_plugins_are_listed_without_importing_them(install: Callable[..., None]) -> None:
    install("grumpy", "raise RuntimeError('imported')")
    assert InstalledPlugin("grumpy", "stranger", "1.2", "trunkline_test_grumpy_stranger") in installed_plugins()
    assert "trunkline_test_grumpy_stranger" not in sys.modules


def test_a_store_is_loaded_when_it_is_asked_for(install: Callable[..., None]) -> None:
    install("attic", GOOD)
    assert PluginHost().store("attic").plugin == "attic"


def test_loading_twice_does_nothing(install: Callable[..., None]) -> None:
    install("attic", GOOD)
    host = PluginHost()
    assert host.load("attic")
    assert host.load("attic")
    assert host.loaded == ["attic"]


def test_a_missing_dependency_fails_a_required_plugin_with_the_reason(install: Callable[..., None]) -> None:
    install("needy", "import no_such_module_anywhere")
    with pytest.raises(
        PluginError, match=r"plugin 'needy' cannot be loaded: .*no_such_module_anywhere.*install"
    ) as caught:
        PluginHost().load("needy", required=True)
    assert caught.value.plugin == "needy"
    assert caught.value.reason == "ModuleNotFoundError: No module named 'no_such_module_anywhere'"


def test_a_plugin_that_is_not_required_is_noted_and_logged(
    install: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    install("needy", "import no_such_module_anywhere")
    install("attic", GOOD, distribution="other")
    host = PluginHost()
    assert not host.load("needy", required=False)
    assert host.load("attic", required=False)
    assert host.failures == {"needy": "ModuleNotFoundError: No module named 'no_such_module_anywhere'"}
    assert "no_such_module_anywhere" in caplog.text


def test_plugins_that_the_configuration_names_must_load() -> None:
    with pytest.raises(PluginError, match=r"'natve' cannot be loaded: it is not installed \(did you mean 'native'"):
        PluginHost().load_all(["natve"])


def test_default_plugins_may_fail(monkeypatch: pytest.MonkeyPatch, install: Callable[..., None]) -> None:
    install("needy", "import no_such_module_anywhere")
    monkeypatch.setattr(plugins, "DEFAULT_PLUGINS", ("needy", "native"))
    host = PluginHost()
    host.load_all()
    assert list(host.failures) == ["needy"]
    assert host.loaded == ["native"]


def test_two_distributions_with_one_plugin_name_are_both_named(install: Callable[..., None]) -> None:
    install("attic", GOOD, distribution="first")
    install("attic", GOOD, distribution="second")
    with pytest.raises(PluginError, match=r"two installed plugins have this name: first .* and second "):
        PluginHost().load("attic")


def test_two_plugins_with_one_store_name_are_both_named() -> None:
    host = PluginHost()
    host.add("one", All())
    with pytest.raises(PluginError, match=r"plugin 'two' .* store 'shelf', which plugin 'one' already offers"):
        host.add("two", All())


def test_a_plugin_is_taken_as_a_whole_or_not_at_all() -> None:
    class HalfGood(All):
        @hookimpl
        def register_doors(self, register: RegisterDoor) -> None:
            raise OSError("no luck")

    host = PluginHost()
    with pytest.raises(PluginError, match="plugin 'half' cannot be loaded: a hook raised OSError: no luck"):
        host.add("half", HalfGood())
    assert (host.stores, host.doors, host.loaded) == ({}, {}, [])
    host.add("half", All())
    assert "shelf" in host.stores


def test_a_misspelt_hook_is_reported() -> None:
    class Misspelt:
        @hookimpl
        def register_store(self, register: RegisterStore) -> None: ...

    with pytest.raises(PluginError, match="unknown hook 'register_store'"):
        PluginHost().add("misspelt", Misspelt())


@pytest.mark.parametrize(
    ("offer", "reason"),
    [
        (lambda register: register("BIG", make_door, default_port=1), "door name 'BIG' is not of the form"),
        (lambda register: register("x", "factory", default_port=1), "the factory of door 'x' is not callable"),
        (lambda register: register("x", make_door, default_port=0), "default port 0 of door 'x' is not in"),
        (lambda register: register("x", make_door, default_port=1, settings=dict), "settings class of door 'x' is not"),
        (lambda register: register("x", make_door), "missing 1 required keyword-only argument: 'default_port'"),
    ],
)
def test_a_wrong_registration_is_reported(offer: Callable[[object], None], reason: str) -> None:
    class Wrong:
        @hookimpl
        def register_doors(self, register: object) -> None:
            offer(register)

    with pytest.raises(PluginError, match=reason):
        PluginHost().add("wrong", Wrong())


def test_an_unknown_store_is_reported_with_the_nearest_name() -> None:
    with pytest.raises(PluginError, match=r"unknown store 'segment': .*did you mean 'segments'"):
        PluginHost().store("segment")
    with pytest.raises(PluginError, match=r"unknown door 'segments': no plugin offers a door of that name;"):
        PluginHost().door("segments")


def test_scanning_imports_no_plugin_and_loading_one_imports_no_other() -> None:
    program = """
        import sys
        from trunkline.plugins import PluginHost, installed_plugins
        installed_plugins()
        assert not [name for name in sys.modules if name.startswith(("trunkline_", "trio", "cramjam"))]
        PluginHost().load("segments")
        assert not [name for name in sys.modules if name.startswith(("trunkline_mqtt", "trunkline_native"))]
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=True, timeout=30)


def hooks() -> list[str]:
    return [name for name in hookspecs.__all__ if name.startswith("register_")]


@pytest.mark.parametrize("hook", hooks())
def test_every_hook_is_documented(hook: str) -> None:
    assert f"### `{hook}(register)`" in DOCS.read_text()


@pytest.mark.parametrize("hook", hooks())
def test_every_hook_has_a_test(hook: str) -> None:
    assert hasattr(All, hook)


def test_the_example_in_the_documentation_registers() -> None:
    _, example = re.findall(r"```(?:toml|python)\n(.*?)```", DOCS.read_text(), flags=re.DOTALL)[:2]
    module = types.ModuleType("my_attic")
    exec(example, module.__dict__)
    host = PluginHost()
    host.add("attic", module)
    assert host.store("attic").settings_type is module.AtticSettings
