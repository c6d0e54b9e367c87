"""app: a file of log settings is read, and one that holds a secret is nobody else's."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from penstock.app.place import Remembered, follow, remember
from penstock.record.errors import NotFound, Refused

pytest.importorskip("confluent_kafka")
SECRETS = (
    "sasl.password", "ssl.key.password", "ssl.keystore.password", "ssl.key.pem", "sasl.oauthbearer.config",
    "sasl.oauthbearer.client.secret", "sasl.oauthbearer.assertion.private.key.passphrase",
)  # fmt: skip


def answer(path: Path, text: str, mode: int) -> str:
    """The code that a file is answered with. Its settings are none of librdkafka's: no broker is asked."""
    path.touch()
    path.write_text(text)
    path.chmod(mode)
    with pytest.raises(Refused) as refused:
        follow(path.parent / "home", Remembered("kafka://127.0.0.1:1", str(path)), create=True)
    assert "hidden" not in str(refused.value)
    return refused.value.code


@pytest.mark.parametrize("name", SECRETS)
def test_a_secret_that_others_may_reach_is_refused(name: str, tmp_path: Path) -> None:
    """Whether they may read or write it; one's own file passes, and so does one without a secret."""
    secret = f"{name}=hidden\nno.such.setting=hidden\n"
    for mode in (0o644, 0o604, 0o602, 0o660, 0o620):
        assert answer(tmp_path / "settings", secret, mode) == "log_secret", oct(mode)
    assert answer(tmp_path / "settings", secret, 0o600) == "log_settings"
    assert answer(tmp_path / "settings", "no.such.setting=hidden\n", 0o644) == "log_settings"


@pytest.mark.skipif(os.name != "posix" or os.getuid() != 0, reason="needs to be root")
def test_a_group_may_read_what_root_lets_it(tmp_path: Path) -> None:
    """Secrets that are mounted for a pod are root's, and its group's to read; another owner's are not."""
    path, secret = tmp_path / "settings", "sasl.password=hidden\nno.such.setting=hidden\n"
    assert answer(path, secret, 0o640) == "log_settings"
    os.chown(path, 12345, 12345)
    assert answer(path, secret, 0o640) == "log_secret"


def test_what_is_no_file_of_settings_is_refused(tmp_path: Path) -> None:
    """No file, or no text: the answer names the file, or the way to name one."""
    with pytest.raises(NotFound):
        follow(tmp_path / "home", Remembered("kafka://127.0.0.1:1", str(tmp_path / "no")), create=True)
    path = tmp_path / "settings"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(Refused) as refused:
        follow(tmp_path / "home", Remembered("kafka://127.0.0.1:1", str(path)), create=True)
    assert refused.value.code == "log_settings"


def test_settings_are_found_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A home remembers the file by its whole path, and the links in it as they are."""
    (tmp_path / "real").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    monkeypatch.chdir(tmp_path)
    remember(tmp_path / "home", Remembered("kafka://127.0.0.1:1", "link"))
    monkeypatch.chdir("/")
    assert remember(tmp_path / "home", Remembered()).settings == str(tmp_path / "link")
