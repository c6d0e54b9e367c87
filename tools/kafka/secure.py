"""What a broker needs to ask who comes: certificates made on the spot, users with passwords, and their rights.

Beside the plain listener there are two more: SASL_SSL for who has a name and a password, SSL for who has a
certificate. Both may do only what a log needs; who comes by the plain one may do everything.
"""

from __future__ import annotations

import secrets
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tools.kafka.broker import Missing, free_ports

USER, READER = "penstock", "reader"
RIGHTS = {USER: ("READ", "WRITE", "CREATE", "DESCRIBE"), READER: ("READ", "DESCRIBE")}
"""On topics that begin with the prefix. Groups that begin so both may READ."""
_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
_PLAIN = "org.apache.kafka.common.security.plain.PlainLoginModule required"
_SCRAM = "org.apache.kafka.common.security.scram.ScramLoginModule required;"


def openssl() -> None:
    """Raise Missing where there is no openssl."""
    if shutil.which("openssl") is None:
        raise Missing("openssl is not installed (it makes the certificates)")


class Doors:
    """The two listeners. `more` is what a `Cluster` takes; `sasl` and `tls` are what their clients say.

    `folder` gets ca.pem and broker.pem; client.pem, which ca.pem vouches for; and stranger.pem, which is
    its own authority."""

    def __init__(self, folder: Path) -> None:
        openssl()
        folder.mkdir(mode=0o700)
        self.folder = folder
        for name in ("ca", "stranger"):
            self._openssl("req", "-x509", *_KEY, "-days", "2", "-subj", f"/CN={name}", "-keyout", f"{name}.key",
                          "-out", f"{name}.crt")  # fmt: skip
            self._join(name)
        self._vouched("broker", "IP:127.0.0.1")
        self._vouched("client", "DNS:client")
        self.passwords = {name: secrets.token_urlsafe(16) for name in (USER, READER)}
        by_password, by_certificate = free_ports(2)
        self.address, self.mutual = f"127.0.0.1:{by_password}", f"127.0.0.1:{by_certificate}"

    def _openssl(self, *words: str) -> None:
        done = subprocess.run(
            ["openssl", *words], cwd=self.folder, capture_output=True, check=False, timeout=30
        )
        if done.returncode:
            raise Missing("openssl made no certificate")

    def _vouched(self, name: str, known_as: str) -> None:
        (self.folder / "names").write_text(f"subjectAltName={known_as}\n")
        self._openssl(
            "req", "-new", *_KEY, "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.csr"
        )
        self._openssl("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial",
                      "-days", "2", "-extfile", "names", "-out", f"{name}.crt")  # fmt: skip
        self._join(name)

    def _join(self, name: str) -> None:
        """Key and certificate in one file, as brokers and clients take them."""
        parts = [(self.folder / f"{name}.{end}").read_text() for end in ("key", "crt")]
        (self.folder / f"{name}.pem").write_text("".join(parts))

    @property
    def more(self) -> dict[str, str]:
        """The settings of a broker with these listeners."""
        listeners = f"SASL_SSL://{self.address},SSL://{self.mutual}"
        users = " ".join(f'user_{name}="{word}"' for name, word in self.passwords.items())
        kinds = {"PLAINTEXT": "PLAINTEXT", "CONTROLLER": "PLAINTEXT", "SASL_SSL": "SASL_SSL", "SSL": "SSL"}
        return {
            "listeners": listeners,
            "advertised.listeners": listeners,
            "listener.security.protocol.map": ",".join(f"{name}:{kind}" for name, kind in kinds.items()),
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": str(self.folder / "broker.pem"),
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": str(self.folder / "ca.crt"),
            "listener.name.ssl.ssl.client.auth": "required",
            "sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-512",
            "listener.name.sasl_ssl.plain.sasl.jaas.config": f"{_PLAIN} {users};",
            "listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config": _SCRAM,
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": "User:ANONYMOUS",
        }

    def admit(self, plain: str, prefix: str) -> None:
        """Tell brokers, by their plain listener, the users' passwords for SCRAM, and what each may do with
        topics and groups that begin with a prefix."""
        import confluent_kafka.admin

        of: Any = confluent_kafka.admin  # the package exports no types of these
        admin = of.AdminClient({"bootstrap.servers": plain, "log_level": 0})
        how = of.ScramCredentialInfo(of.ScramMechanism.SCRAM_SHA_512, 4096)
        words = [
            of.UserScramCredentialUpsertion(name, how, word.encode()) for name, word in self.passwords.items()
        ]
        rights = [("TOPIC", USER, right) for right in RIGHTS[USER]]
        rights += [("TOPIC", READER, right) for right in RIGHTS[READER]]
        rights += [("TOPIC", "CN=client", right) for right in RIGHTS[USER]]
        rights += [("GROUP", name, "READ") for name in (USER, READER, "CN=client")]
        grants = [
            of.AclBinding(
                of.ResourceType[kind], prefix, of.ResourcePatternType.PREFIXED,
                f"User:{name}", "*", of.AclOperation[right], of.AclPermissionType.ALLOW,
            )
            for kind, name, right in rights
        ]  # fmt: skip
        for asked in (admin.alter_user_scram_credentials(words), admin.create_acls(grants)):
            for done in asked.values():
                done.result(30)

    @property
    def sasl(self) -> dict[str, str]:
        """What a client with a password says."""
        return {
            "security.protocol": "SASL_SSL",
            "ssl.ca.location": str(self.folder / "ca.crt"),
            "sasl.mechanism": "SCRAM-SHA-512",
            "sasl.username": USER,
            "sasl.password": self.passwords[USER],
        }

    @property
    def tls(self) -> dict[str, str]:
        """What a client with a certificate says."""
        return {
            "security.protocol": "SSL",
            "ssl.ca.location": str(self.folder / "ca.crt"),
            **self.shown("client"),
        }

    def shown(self, name: str) -> dict[str, str]:
        """The settings that show a certificate of the folder."""
        path = str(self.folder / f"{name}.pem")
        return {"ssl.certificate.location": path, "ssl.key.location": path}


def lines(settings: Mapping[str, str]) -> str:
    """Settings as a file of them holds them."""
    return "".join(f"{key}={value}\n" for key, value in settings.items())
