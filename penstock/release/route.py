"""release: the route: which version answers whom. A fold of the release records of one model."""

from __future__ import annotations

import hashlib

import msgspec

from penstock.record.decisions import Release, Role


class Ref(msgspec.Struct, frozen=True):
    """A version by its number and its digest."""

    version: int
    digest: str


class Route(msgspec.Struct, frozen=True):
    """Who answers: the champion, except for `share` percent of the entities, whom the candidate answers.

    `previous` is the champion before; it scores on beside the new one until that has settled.
    """

    champion: Ref | None = None
    candidate: Ref | None = None
    previous: Ref | None = None
    share: int = 0

    def versions(self) -> list[tuple[Role, Ref]]:
        """Every version that scores, by role."""
        roles: tuple[tuple[Role, Ref | None], ...] = (
            ("champion", self.champion),
            ("candidate", self.candidate),
            ("previous", self.previous),
        )
        return [(role, ref) for role, ref in roles if ref]

    def answers(self, model: str, entity: str) -> Role:
        """The role that answers an entity; sticky, and monotone in the share."""
        taken = self.candidate is not None and bucket(model, entity) < self.share
        return "candidate" if taken else "champion"


def follow(route: Route, release: Release) -> Route:
    """The route after one more release step."""
    ref = Ref(release.version, release.digest)
    match release.step:
        case "shadow":
            return msgspec.structs.replace(route, candidate=ref, share=0)
        case "canary":
            return msgspec.structs.replace(route, candidate=ref, share=release.share)
        case "champion":
            return Route(champion=ref, previous=route.champion)
        case "settled":
            return msgspec.structs.replace(route, previous=None)
        case "withdrawn":
            return msgspec.structs.replace(route, candidate=None, share=0)
        case "rolled_back":
            restored = Ref(release.restored, release.restored_digest) if release.restored else None
            return Route(champion=restored)


def bucket(model: str, entity: str) -> int:
    """An entity's place among a hundred, the same for ever: the first bytes of a hash of both names."""
    return int.from_bytes(hashlib.blake2b(f"{model}/{entity}".encode(), digest_size=8).digest()) % 100
