from __future__ import annotations

import pytest

from service.settings import Settings, SettingsError, read, removed, unknown


def test_every_setting_is_described() -> None:
    """docs/settings.md is generated from the descriptions: one sentence each."""
    for name, field in Settings.model_fields.items():
        assert field.description and field.description.endswith("."), name


def test_the_names_that_tools_rely_on() -> None:
    """docs/settings.md promises them."""
    names = "model host port n_ctx n_seq n_batch n_threads kv_type n_gpu_layers max_waiting queue_timeout_s api_keys"
    names += " resume_grace_s heartbeat_s drain_s"
    assert set(names.split()) <= set(Settings.model_fields)
    assert (read().port, read().kv_type, read().model) == (8000, "auto", "")


def test_values_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the name in capitals, with the prefix RILL_; lists are comma-separated."""
    monkeypatch.setenv("RILL_PORT", "9000")
    monkeypatch.setenv("RILL_N_CTX", "8192")
    monkeypatch.setenv("RILL_MODEL_NAMES", "fox, owl,")
    monkeypatch.setenv("RILL_API_KEYS", "hunter2,two")
    settings = read()
    assert (settings.port, settings.n_ctx, settings.model_names) == (9000, 8192, ("fox", "owl"))
    assert [key.get_secret_value() for key in settings.api_keys] == ["hunter2", "two"]
    assert "hunter2" not in repr(settings)


def test_an_empty_value_is_none_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compose passes unset variables on as empty ones."""
    monkeypatch.setenv("RILL_PORT", "")
    monkeypatch.setenv("RILL_N_CTX", "")
    assert (read().port, read().n_ctx) == (8000, None)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "80000"),
        ("PORT", "http"),
        ("N_SEQ", "0"),
        ("N_SEQ", "257"),
        ("N_BATCH", "31"),
        ("API_KEYS", " , "),
        ("ALLOWED_ORIGINS", "*"),
        ("ALLOWED_ORIGINS", "a.example"),
        ("ALLOWED_ORIGINS", "chrome-extension://*"),
        ("ALLOWED_ORIGINS", "https://a.example/page"),
        ("ALLOWED_ORIGINS", "https://a.example:port"),
        ("KV_TYPE", "q9"),
        ("FLASH_ATTENTION", "maybe"),
        ("SPLIT_MODE", "diagonal"),
        ("PREFIX_SCOPE", "some"),
        ("STEP_MS", "0"),
        ("STEP_MS", "inf"),
        ("HEARTBEAT_S", "0"),
        ("HEARTBEAT_S", "-1"),
        ("QUEUE_TIMEOUT_S", "soon"),
        ("DRAIN_S", "nan"),
        ("DRAIN_S", "inf"),
        ("MODEL_SHA256", "abc"),
        ("MAX_BODY_BYTES", "1"),
        ("LOG_LEVEL", "loud"),
    ],
)
def test_a_wrong_value_is_one_line_that_names_it(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    """Not a traceback: which variable, and what it should be."""
    monkeypatch.setenv("RILL_" + name, value)
    with pytest.raises(SettingsError) as error:
        read()
    assert str(error.value).startswith(f"RILL_{name}: ") and "\n" not in str(error.value)


def test_streams_are_kept_in_one_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """Redis or a file: one line that names both."""
    monkeypatch.setenv("RILL_STORE_PATH", "streams.db")
    assert read().store_path == "streams.db"
    monkeypatch.setenv("RILL_REDIS_URL", "redis://127.0.0.1")
    with pytest.raises(SettingsError, match=r"^RILL_STORE_PATH and RILL_REDIS_URL: [^\n]+$"):
        read()


def test_a_misspelt_setting_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise it would have no effect, unnoticed."""
    monkeypatch.setenv("RILL_PROT", "9000")
    monkeypatch.setenv("RILL_PORT", "9000")
    assert unknown() == ["RILL_PROT"]


def test_a_removed_setting_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """By its name, and with the reason; an empty one is none at all."""
    assert removed() == []
    monkeypatch.setenv("RILL_DRAFT_MODEL", "")
    assert removed() == unknown() == []
    monkeypatch.setenv("RILL_DRAFT_MODEL", "small.gguf")
    (sentence,) = removed()
    assert sentence.startswith("RILL_DRAFT_MODEL is no longer a setting: ") and unknown() == []


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("http://LOCALHOST:3000/", "http://localhost:3000"),
        ("https://x.example:443", "https://x.example"),
        ("http://x.example:80", "http://x.example"),
        ("http://x.example:443", "http://x.example:443"),
        ("app://obsidian.md", "app://obsidian.md"),
        ("http://[::1]:8080", "http://[::1]:8080"),
        ("https://[::1]", "https://[::1]"),
    ],
)
def test_an_origin_is_what_browsers_send(monkeypatch: pytest.MonkeyPatch, value: str, expected: str) -> None:
    """In lower case, and without the default port."""
    monkeypatch.setenv("RILL_ALLOWED_ORIGINS", f"https://good.example, {value}")
    assert read().allowed_origins == ("https://good.example", expected)
